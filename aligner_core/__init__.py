"""What weak-to-strong alignment by correction is built from."""
