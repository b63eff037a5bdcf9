"""Files of a repository, downloaded over several connections, resumed and verified."""
