"""Download files of a repository over several connections, with resume and verification."""
