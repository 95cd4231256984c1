"""The only place that makes strings for people."""
