"""The lab with full systemd machines: the same topology as the namespaces' lab, with real units and services."""
