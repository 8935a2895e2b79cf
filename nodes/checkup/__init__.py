"""What `anabranch doctor` looks at."""
