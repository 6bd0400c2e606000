"""Not imported by what is tested: the real one brings psutil."""
