"""How well an infrared picture was registered: likeness to the true picture, and displacement left.

The likeness measures are those of the ME-PMA evaluator. They are weak judges (returning the visible
picture beats no registration on NCC), which is why displacement is measured too: against the known field
where there is one (`endpoint_error`), by a dense flow between true and registered picture where there is
not (`picture_endpoint_error`).
"""

from dataclasses import dataclass

import cv2
import numpy as np
import numpy.typing as npt

from streamfuse.errors import DataError
from streamfuse.frame import Flow, Image8, Mask
from streamfuse.metrics import similarity, standard
from streamfuse.metrics.picture import Floats, Grey, Picture, pictures, remembered, values
from streamfuse.metrics.similarity import MS_SSIM_MIN_SIDE
from streamfuse.sampling import NO_SECOND_MAP, positions_of

NCC_WINDOW = 9
NCC_REGULARISER = 1e-5

# Local normalisation before the flow: what differs between a true and a registered picture besides
# position is brightness and sharpness.
PRE_BLUR_SIGMA = 0.8
NORMALISE_SIGMA = 8.0
NORMALISE_VARIANCE = 16.0
NORMALISE_GAIN, NORMALISE_CENTRE = 42.0, 128.0
PAD = 32

# DIS at full resolution with many iterations: 0.05 to 0.23 px off on known warps.
DIS_FINEST_SCALE = 0
DIS_PATCH, DIS_STRIDE = 8, 2
DIS_DESCENT_ITERATIONS, DIS_VARIATIONAL_ITERATIONS = 60, 20

BORDER = 12
TEXTURE_SIGMA = 4.0
TEXTURE_LEVELS = 4.0
CORRELATION_SIGMA = 4.0
CORRELATION_VARIANCE = 1.0
MIN_CORRELATION = 0.5
MAX_ROUND_TRIP = 1.0
PENALTY = 8.0


@dataclass(frozen=True, slots=True, kw_only=True)
class EndpointError:
    """Displacement left over one picture, in pixels of the visible geometry.

    mean, median, p95: over the pixels where it could be measured.
    penalised: over all judged pixels, those not measured charged with at least 8 px.
    measured: share of the judged pixels that could be measured, 0..1.
    Where nothing could be measured the first three are 8 as well; without any judged pixel all are 0.
    """

    mean: float
    median: float
    p95: float
    penalised: float
    measured: float


def _summary(error: Floats, judged: npt.NDArray[np.bool_], measured: npt.NDArray[np.bool_]) -> EndpointError:
    if not judged.any():
        return EndpointError(mean=0.0, median=0.0, p95=0.0, penalised=0.0, measured=0.0)
    good = error[judged & measured]
    charged = np.where(measured, error, np.maximum(error, PENALTY))[judged]
    mean = median = p95 = PENALTY
    if good.size:
        mean, median, p95 = float(good.mean()), float(np.median(good)), float(np.percentile(good, 95))
    return EndpointError(
        mean=mean,
        median=median,
        p95=p95,
        penalised=float(charged.mean()),
        measured=good.size / int(np.count_nonzero(judged)),
    )


def mi(truth: Grey, registered: Grey) -> float:
    """Mutual information, bits, each picture min-max stretched first. 0 when either is constant."""
    return standard.mi(truth, registered)


def ms_ssim(truth: Grey, registered: Grey) -> float:
    """Multi-scale SSIM, 0..1. Sides >= 161."""
    t, r = pictures(truth, registered, min_side=MS_SSIM_MIN_SIDE)
    return similarity.ms_ssim(t, r)


@remembered
def _box_sum(picture: Picture) -> Floats:
    return _boxed(values(picture) / 255)


def _boxed(image: Floats) -> Floats:
    size = (NCC_WINDOW, NCC_WINDOW)
    return np.asarray(cv2.boxFilter(image, cv2.CV_64F, size, normalize=False, borderType=cv2.BORDER_CONSTANT))


def _box_covariance(a: Picture, b: Picture) -> Floats:
    product = _boxed(values(a) * values(b) / 255**2)
    return product - _box_sum(a) * _box_sum(b) / NCC_WINDOW**2


def ncc(truth: Grey, registered: Grey) -> float:
    """Mean squared correlation in 9x9 windows (zeros outside), 0..1. Blind to the sign of contrast, and
    flat windows count 0: identical pictures stay below 1."""
    t, r = pictures(truth, registered)
    variances = _box_covariance(t, t) * _box_covariance(r, r)
    return float(np.mean(_box_covariance(t, r) ** 2 / (variances + NCC_REGULARISER)))


def _mask(mask: npt.NDArray[np.bool_] | Mask | None, shape: tuple[int, ...]) -> npt.NDArray[np.bool_]:
    if mask is None:
        return np.ones(shape, dtype=bool)
    if np.shape(mask) != shape:
        raise DataError(f"the mask is {np.shape(mask)}, what it is for is {shape}")
    return np.asarray(mask, dtype=bool)


def endpoint_error(
    flow: Flow, truth: Flow, *, judged: npt.NDArray[np.bool_] | Mask | None = None
) -> EndpointError:
    """Distance between an estimated and the known pull field.

    Args:
        flow, truth: (H, W, 2), channels (dx, dy), pixels.
        judged: (H, W), bool or 0 and other values, the pixels to count; None: all.

    Raises:
        DataError: shapes differ, or values to be counted are not finite.
    """
    if flow.shape != truth.shape or flow.ndim != 3 or flow.shape[2] != 2:
        raise DataError(f"fields must have one shape (H, W, 2), got {flow.shape} against {truth.shape}")
    where = _mask(judged, flow.shape[:2])
    error = np.hypot(*np.moveaxis(flow.astype(np.float64) - truth, -1, 0))
    if not np.isfinite(error[where]).all():
        raise DataError("a displacement field holds values that are not finite")
    return _summary(error, where, where)


def pulled(image: npt.NDArray[np.float32], flow: Flow) -> npt.NDArray[np.float32]:
    """image(p + flow(p)), bilinear, border replicated. image: float32 (H, W) or (H, W, C)."""
    moved = cv2.remap(
        image, positions_of(flow), NO_SECOND_MAP, cv2.INTER_LINEAR, borderMode=cv2.BORDER_REPLICATE
    )
    return np.asarray(moved, dtype=np.float32)


def _blurred(image: Floats, sigma: float) -> Floats:
    return np.asarray(cv2.GaussianBlur(image, (0, 0), sigma))


def _local_variance(image: Floats, sigma: float) -> Floats:
    return np.maximum(_blurred(image**2, sigma) - _blurred(image, sigma) ** 2, 0)


@remembered
def _normalised(picture: Picture) -> Picture:
    smooth = _blurred(values(picture), PRE_BLUR_SIGMA)
    deviation = np.sqrt(_local_variance(smooth, NORMALISE_SIGMA) + NORMALISE_VARIANCE)
    scaled = (smooth - _blurred(smooth, NORMALISE_SIGMA)) / deviation * NORMALISE_GAIN + NORMALISE_CENTRE
    grey = np.clip(scaled, 0, 255).astype(np.uint8)
    return Picture(cv2.copyMakeBorder(grey, PAD, PAD, PAD, PAD, cv2.BORDER_REFLECT_101))


def dense_flow(method: cv2.DenseOpticalFlow, a: Image8, b: Image8) -> Flow:
    """Run an OpenCV flow method from nothing: a(p) = b(p + flow(p)), float32 (H, W, 2)."""
    return np.asarray(method.calc(a, b, None))  # type: ignore[call-overload]  # OpenCV's stub denies None


def same_modality_flow(a: Grey, b: Grey) -> Flow:
    """Dense flow with a(p) = b(p + flow(p)) between two pictures of one modality, (H, W, 2) float32."""
    one, other = pictures(a, b)
    dis = cv2.DISOpticalFlow.create(cv2.DISOPTICAL_FLOW_PRESET_MEDIUM)
    dis.setFinestScale(DIS_FINEST_SCALE)
    dis.setPatchSize(DIS_PATCH)
    dis.setPatchStride(DIS_STRIDE)
    dis.setGradientDescentIterations(DIS_DESCENT_ITERATIONS)
    dis.setVariationalRefinementIterations(DIS_VARIATIONAL_ITERATIONS)
    field = dense_flow(dis, _normalised(one).pixels, _normalised(other).pixels)
    return np.ascontiguousarray(field[PAD:-PAD, PAD:-PAD])


@remembered
def _judged(truth: Picture) -> npt.NDArray[np.bool_]:
    textured = np.sqrt(_local_variance(values(truth), TEXTURE_SIGMA)) > TEXTURE_LEVELS
    inner = np.zeros(truth.shape, dtype=bool)
    inner[BORDER:-BORDER, BORDER:-BORDER] = True
    return textured & inner


def _local_correlation(a: Floats, b: Floats) -> Floats:
    covariance = _blurred(a * b, CORRELATION_SIGMA) - _blurred(a, CORRELATION_SIGMA) * _blurred(
        b, CORRELATION_SIGMA
    )
    variances = [_local_variance(x, CORRELATION_SIGMA) + CORRELATION_VARIANCE for x in (a, b)]
    return covariance / np.sqrt(variances[0] * variances[1])


def picture_endpoint_error(
    truth: Grey, registered: Grey, *, known: npt.NDArray[np.bool_] | Mask | None = None
) -> EndpointError:
    """Displacement left in a registered picture, by dense flow from the true picture of that modality.

    Judged are textured pixels at least 12 px from the border; measured those where the flow comes back to
    within 1 px and what it finds looks alike (local correlation above 0.5).

    Args:
        truth, registered: 8-bit grey (H, W) of one modality and one size, sides >= 41.
        known: (H, W), bool or 0 and other values, where the true picture is to be trusted; None: everywhere.

    Raises:
        DataError: a picture is not 8-bit grey, or shapes differ.
    """
    t, r = pictures(truth, registered, min_side=EPE_MIN_SIDE)
    there, back = same_modality_flow(t, r), same_modality_flow(r, t)
    round_trip = np.hypot(*np.moveaxis(there + pulled(back, there), -1, 0))
    found = pulled(r.pixels.astype(np.float32), there).astype(np.float64)
    alike = _local_correlation(values(t), found) > MIN_CORRELATION
    error = np.hypot(there[..., 0], there[..., 1]).astype(np.float64)
    judged = _judged(t) & _mask(known, t.shape)
    return _summary(error, judged, (round_trip <= MAX_ROUND_TRIP) & alike)


EPE_MIN_SIDE = 41
"""Room for the padding by reflection and for judged pixels inside the border."""
