"""Pull sampling moves what it is told to, and nothing else."""

import numpy as np

from streamfuse.sampling import positions_of, pull_map


def test_a_zero_flow_is_the_identity(rng: np.random.Generator) -> None:
    image = rng.integers(0, 256, (41, 57), dtype=np.uint8)
    pulled, covered = pull_map(image, positions_of(np.zeros((41, 57, 2), np.float32)))
    assert np.array_equal(pulled, image)
    assert covered.all()


def test_a_whole_pixel_flow_shifts_and_replicates_the_border(rng: np.random.Generator) -> None:
    image = rng.integers(0, 256, (41, 57), dtype=np.uint8)
    flow = np.zeros((41, 57, 2), np.float32)
    flow[..., 0], flow[..., 1] = 3, -2
    pulled, covered = pull_map(image, positions_of(flow))
    assert np.array_equal(pulled[2:, :-3], image[:-2, 3:])
    assert np.array_equal(pulled[2:, -3:], np.repeat(image[:-2, -1:], 3, axis=1))
    assert covered[2:, :-3].all()
    assert not covered[:2].any()
    assert not covered[:, -3:].any()
