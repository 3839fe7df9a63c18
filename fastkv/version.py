"""The one place that states versions: that of the release, and those of the protocol that it speaks.

docs/upgrades.md says what each version of the protocol brought, and what is promised between releases.
"""

__version__ = "0.2.0"

PROTOCOL_VERSION = 2
"""The newest version of the protocol that this release speaks."""
OLDEST_PROTOCOL_VERSION = 1
"""The oldest one: that of the release before."""
