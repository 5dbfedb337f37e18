"""What segfast costs, beside what one would use otherwise."""
