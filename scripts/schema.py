"""Print the JSON schema of config.yaml, for editors."""

import argparse
import sys

from klmap import config, log


def main() -> None:
    """Parse the arguments and print."""
    argparse.ArgumentParser(description=__doc__).parse_args()
    sys.stdout.write(config.json_schema())


if __name__ == "__main__":
    log.run(main)
