"""The libraries segfast can use: what they are for, whether they work, how to get them."""
