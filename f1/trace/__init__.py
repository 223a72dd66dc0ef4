"""What runs leave behind, and what people do with it: entries, provenance, redaction, spans."""
