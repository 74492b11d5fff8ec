"""Results as HTML; every text that a user or a file can choose is escaped here."""
