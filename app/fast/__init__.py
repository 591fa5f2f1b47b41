"""What makes predictions fast. Without it, the pipeline itself serves, slower."""
