"""open_clip's encoders as modules that export cleanly."""
