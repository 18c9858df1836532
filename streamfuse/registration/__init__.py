"""Registrars: where does the infrared picture lie on the visible one."""

from streamfuse.registry import Registry

REGISTRARS = Registry(
    "registrar",
    {
        "live": "streamfuse.registration.live:LiveRegistrar",
        "mepma": "streamfuse.registration.mepma:MepmaModel",
        "none": "streamfuse.registration.none:NoneRegistrar",
        "ecc": "streamfuse.registration.ecc:EccRegistrar",
        "blocks": "streamfuse.registration.blocks:BlocksRegistrar",
    },
    needs=("register",),
    made_with="device",
)
