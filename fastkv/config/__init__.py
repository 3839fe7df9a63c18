"""The configuration of a node: what may be set, and how it is read.

* `settings`: every setting as a frozen dataclass, with its unit, default and bounds;
* `document`: a YAML file that remembers its lines;
* `loader`: file, environment and flags become one `NodeConfig`;
* `validation`: rules about more than one setting.

A leaf: it imports nothing of fastkv but the errors.
"""

from fastkv.config.loader import (
    ENVIRONMENT,
    NODE_ID,
    NODE_ID_ALLOWED,
    config_path,
    load_config,
    load_file,
    parse_host_port,
)
from fastkv.config.settings import (
    OFF,
    BackupSettings,
    ClusterConfig,
    HostPort,
    Limits,
    LoggingSettings,
    NodeAddress,
    NodeConfig,
    RaftSettings,
    SecuritySettings,
    ServerSettings,
    StorageSettings,
)
from fastkv.config.validation import is_loopback

__all__ = [
    "ENVIRONMENT",
    "NODE_ID",
    "NODE_ID_ALLOWED",
    "OFF",
    "BackupSettings",
    "ClusterConfig",
    "HostPort",
    "Limits",
    "LoggingSettings",
    "NodeAddress",
    "NodeConfig",
    "RaftSettings",
    "SecuritySettings",
    "ServerSettings",
    "StorageSettings",
    "config_path",
    "is_loopback",
    "load_config",
    "load_file",
    "parse_host_port",
]
