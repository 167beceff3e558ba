"""What each data path costs: counted on real bytes, timed by declared hardware in virtual time."""
