"""Which steps are computed."""
