"""What a run tells: reports, pictures, calibration, shared measurements."""
