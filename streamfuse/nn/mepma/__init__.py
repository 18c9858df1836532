"""The ME-PMA network, one file per part."""

from streamfuse.nn.mepma.network import MEPMA, MepmaOutput, total_flow

__all__ = ["MEPMA", "MepmaOutput", "total_flow"]
