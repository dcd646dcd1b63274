"""Native hot paths, one room per framework, and the choice among them."""
