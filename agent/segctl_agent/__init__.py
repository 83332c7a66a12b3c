"""The agent: one host's policy in its kernel, its denials on their way back."""

import os

# gRPC's own resolver may find other addresses of a name than the system's (it joins the lines of /etc/hosts that share
# an alias), and only those that the system's finds are the agent's channel in the kernel (endpoints.py). Read by gRPC
# when it first resolves.
os.environ["GRPC_DNS_RESOLVER"] = "native"
