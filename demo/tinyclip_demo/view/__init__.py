"""Results as HTML; all text from users and files is escaped here."""
