"""Reports of runs, their pictures, calibration of codebooks, and measurements that people share."""
