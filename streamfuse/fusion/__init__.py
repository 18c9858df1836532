"""Fusers: one luma picture out of two aligned ones."""

from streamfuse.registry import Registry

FUSERS = Registry(
    "fuser",
    {
        "average": "streamfuse.fusion.average:AverageFuser",
        "max": "streamfuse.fusion.maximum:MaximumFuser",
        "laplacian": "streamfuse.fusion.laplacian:LaplacianFuser",
        "guided": "streamfuse.fusion.guided:GuidedFuser",
        "live": "streamfuse.fusion.live:LiveFuser",
        "people": "streamfuse.fusion.people:PeopleFuser",
        "mepma": "streamfuse.registration.mepma:MepmaModel",
    },
    needs=("fuse", "reset"),
    made_with="device",
)
