"""The readers by kind of file; each module has a table ``READERS``, of which all are driven."""
