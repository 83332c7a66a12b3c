"""Imported before grpc: leaves TLS 1.3 as the only version that the controller speaks.

grpc has no option for the version and reads its list of TLS 1.2 ciphers once, when it is imported. A list for RSA
certificates fits no ECDSA certificate, and ours are all ECDSA; TLS 1.3 has ciphers of its own.
"""

import os

os.environ["GRPC_SSL_CIPHER_SUITES"] = "ECDHE-RSA-AES256-GCM-SHA384"
