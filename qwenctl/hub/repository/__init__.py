"""What a repository of the Hub is and offers: names, listings and quantizations."""
