"""The release number of this distribution; all three distributions of the repository carry the same one."""

__version__ = "1.0.0rc1"
