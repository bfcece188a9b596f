"""What a sampler does, and how errors of skipped steps are corrected."""
