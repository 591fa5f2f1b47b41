"""How good a trained pipeline is, and whether it may be published."""
