"""Which metrics there are, what is good in each, and all of them at once.

Families: `fusion` (ME-PMA's table, the standard forms, what stands out), `film` (FILM's evaluator, names
prefixed), `registration` (likeness of the registered to the true infrared), `epe` (displacement left,
pixels), `temporal` (steadiness of a clip). Names are those of the published tables.
"""

from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass
from operator import attrgetter
from typing import Literal, get_args

from streamfuse.errors import DataError
from streamfuse.metrics import film, mepma, registration, salience, standard
from streamfuse.metrics.picture import Grey, Picture, pictures
from streamfuse.metrics.registration import EndpointError
from streamfuse.metrics.similarity import MS_SSIM_MIN_SIDE, UNIFORM_WINDOW, WINDOW
from streamfuse.metrics.temporal import Steadiness
from streamfuse.metrics.vif import MIN_SIDE as VIF_MIN_SIDE

Better = Literal["higher", "lower"]
Family = Literal["fusion", "film", "registration", "epe", "temporal"]
FusionFamily = Literal["fusion", "film"]


@dataclass(frozen=True, slots=True)
class Metric:
    """One column of a table.

    function: takes (ir, vis, fused) in the fusion families, (truth, registered) in `registration`, the
    family's own result in `epe` and `temporal`. what: one line for people. min_side: pictures with a
    shorter side have no such value.
    """

    name: str
    function: Callable[..., float]
    better: Better
    what: str
    min_side: int = 2


def _of_fused(function: Callable[[Grey], float]) -> Callable[[Grey, Grey, Grey], float]:
    return lambda ir, vis, fused: function(fused)


def _table(*metrics: Metric) -> Mapping[str, Metric]:
    return {metric.name: metric for metric in metrics}


FUSION = _table(
    Metric("Q_MI", mepma.q_mi, "higher", "mutual information with both sources, bits (ME-PMA)"),
    Metric("Q_CE", mepma.q_ce, "lower", "cross entropy of the histograms, bits (ME-PMA)"),
    Metric("Q_VIF", mepma.q_vif, "higher", "visual information fidelity, 8-bit wrap (ME-PMA)", VIF_MIN_SIDE),
    Metric("Q_ABF", mepma.q_abf, "higher", "edges kept, four-quadrant angle (ME-PMA)"),
    Metric("Q_CB", mepma.q_cb, "higher", "perceived local contrast kept (ME-PMA)"),
    Metric(
        "Q_CV", mepma.q_cv, "lower", "perceived difference at salient regions (ME-PMA)", mepma.CV_MIN_SIDE
    ),
    Metric("EN", _of_fused(standard.en), "higher", "entropy, bits"),
    Metric("SD", _of_fused(standard.sd), "higher", "standard deviation, grey levels"),
    Metric("SF", _of_fused(standard.sf), "higher", "spatial frequency, grey levels"),
    Metric("AG", _of_fused(standard.ag), "higher", "average gradient, forward differences"),
    Metric("VIF_std", standard.vif_std, "higher", "VIF to both sources, summed", VIF_MIN_SIDE),
    Metric("VIFF", standard.viff, "higher", "VIF to the source kept less (Han 2013)", VIF_MIN_SIDE),
    Metric("Qabf_std", standard.qabf_std, "higher", "edges kept (Xydeas and Petrovic)"),
    Metric("MI_ir", standard.mi_ir, "higher", "mutual information with the infrared, bits"),
    Metric("MI_vis", standard.mi_vis, "higher", "mutual information with the visible, bits"),
    Metric("MI_min", standard.mi_min, "higher", "mutual information with the source kept less, bits"),
    Metric("SSIM", standard.ssim, "higher", "SSIM, mean over both sources", WINDOW),
    Metric("SSIM_ir", standard.ssim_ir, "higher", "SSIM to the infrared", WINDOW),
    Metric("SSIM_vis", standard.ssim_vis, "higher", "SSIM to the visible", WINDOW),
    Metric("SSIM_min", standard.ssim_min, "higher", "SSIM to the source kept less", WINDOW),
    Metric(
        "MS_SSIM", standard.ms_ssim, "higher", "multi-scale SSIM, mean over both sources", MS_SSIM_MIN_SIDE
    ),
    Metric("NCC", standard.ncc, "higher", "correlation, mean over both sources"),
    Metric(
        "warm_contrast", salience.warm_contrast, "higher", "contrast of warm things, share of the infrared's"
    ),
    Metric(
        "texture_kept", salience.texture_kept, "higher", "texture under flat infrared, share of the visible's"
    ),
)

FILM = _table(
    Metric("film_EN", _of_fused(film.en), "higher", "entropy, bits"),
    Metric("film_SD", _of_fused(film.sd), "higher", "standard deviation, grey levels"),
    Metric("film_SF", _of_fused(film.sf), "higher", "spatial frequency, grey levels"),
    Metric("film_AG", _of_fused(film.ag), "higher", "average gradient, central differences"),
    Metric("film_MI", film.mi, "higher", "mutual information with both sources, nats"),
    Metric("film_MSE", film.mse, "lower", "mean squared difference to the sources"),
    Metric("film_PSNR", film.psnr, "higher", "peak signal to noise ratio to the sources, dB"),
    Metric("film_CC", film.cc, "higher", "correlation, mean over both sources"),
    Metric("film_SCD", film.scd, "higher", "correlations of differences, summed"),
    Metric("film_VIFF", film.viff, "higher", "VIF to both sources, summed", VIF_MIN_SIDE),
    Metric("film_Qabf", film.qabf, "higher", "edges kept"),
    Metric("film_SSIM", film.ssim, "higher", "SSIM (7x7 uniform) to both sources, summed", UNIFORM_WINDOW),
)

REGISTRATION = _table(
    Metric("MI", registration.mi, "higher", "mutual information with the true infrared, bits"),
    Metric(
        "MS_SSIM", registration.ms_ssim, "higher", "multi-scale SSIM to the true infrared", MS_SSIM_MIN_SIDE
    ),
    Metric("NCC", registration.ncc, "higher", "squared local correlation with the true infrared"),
)

EPE = _table(
    Metric("epe_mean", attrgetter("mean"), "lower", "displacement left where measurable, mean, px"),
    Metric("epe_median", attrgetter("median"), "lower", "displacement left where measurable, median, px"),
    Metric("epe_p95", attrgetter("p95"), "lower", "displacement left where measurable, 95th percentile, px"),
    Metric(
        "epe_pen", attrgetter("penalised"), "lower", "displacement left, at least 8 px where unmeasurable"
    ),
    Metric("epe_measured", attrgetter("measured"), "higher", "share of judged pixels that was measurable"),
)

TEMPORAL = _table(
    Metric("warp_error", attrgetter("warp_error"), "lower", "warped-frame error, grey levels"),
    Metric(
        "warp_error_ratio", attrgetter("warp_error_ratio"), "lower", "warped-frame error over that of max"
    ),
    Metric("luma_jitter", attrgetter("luma_jitter"), "lower", "mean step of mean luma, grey levels"),
    Metric("TC", attrgetter("tc"), "lower", "changes unlike those of the sources, summed, grey levels"),
)

METRICS: Mapping[Family, Mapping[str, Metric]] = {
    "fusion": FUSION,
    "film": FILM,
    "registration": REGISTRATION,
    "epe": EPE,
    "temporal": TEMPORAL,
}


def fusion_panel(
    ir: Grey, vis: Grey, fused: Grey, *, families: Collection[FusionFamily] = ("fusion", "film")
) -> dict[FusionFamily, dict[str, float]]:
    """All metrics of the named families for one fused picture.

    Pass the sources as `Picture` when several fused pictures are judged against them: their share of the
    work is then done once. Metrics that need larger pictures are left out.

    Args:
        ir, vis, fused: 8-bit grey (H, W) of one size.

    Raises:
        DataError: what is no such picture, or no such family.
    """
    a, b, f = pictures(ir, vis, fused)
    if unknown := sorted(set(families) - set(get_args(FusionFamily))):
        raise DataError(f"families: must be of {get_args(FusionFamily)}, got {', '.join(unknown)}")
    return {
        family: {
            name: m.function(a, b, f) for name, m in METRICS[family].items() if min(f.shape) >= m.min_side
        }
        for family in families
    }


def registration_panel(truth: Grey, registered: Grey) -> dict[str, float]:
    """Likeness of the registered to the true infrared; metrics that need larger pictures are left out.

    Args:
        truth, registered: 8-bit grey (H, W) of one size.
    """
    t, r = pictures(truth, registered)
    return {name: m.function(t, r) for name, m in REGISTRATION.items() if min(t.shape) >= m.min_side}


def epe_panel(error: EndpointError) -> dict[str, float]:
    """An end-point error under the names of the table."""
    return {name: float(metric.function(error)) for name, metric in EPE.items()}


def temporal_panel(steadiness: Steadiness) -> dict[str, float]:
    """A clip's steadiness under the names of the table."""
    return {name: float(metric.function(steadiness)) for name, metric in TEMPORAL.items()}


__all__ = [
    "EPE",
    "FILM",
    "FUSION",
    "METRICS",
    "REGISTRATION",
    "TEMPORAL",
    "Better",
    "Family",
    "FusionFamily",
    "Metric",
    "Picture",
    "epe_panel",
    "fusion_panel",
    "registration_panel",
    "temporal_panel",
]
