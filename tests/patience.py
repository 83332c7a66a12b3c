"""How much longer this machine may take: SEGCTL_PATIENCE=10 where a processor is emulated."""

import os

PATIENCE = float(os.environ.get("SEGCTL_PATIENCE", "1"))


def patience(seconds: float) -> float:
    return seconds * PATIENCE
