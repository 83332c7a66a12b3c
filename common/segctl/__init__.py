"""segctl: micro-segmentation for fleets of Linux servers. This package is the core that agent, controller and CLI
share."""

__version__ = "0.1.0"
