"""The suites that come with bibench, as YAML files."""
