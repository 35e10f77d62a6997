"""`make demo`: the main job, end to end, on hosts of the lab. Ends in PASS and status 0, or says why not."""

import argparse
import shutil
import sys
import tempfile
import traceback
from pathlib import Path

from holdfast.lab.demo.narrator import Narrator
from holdfast.lab.demo.story import Story
from holdfast.lab.lab import Lab


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--lab-dir", type=Path, required=True)
    parser.add_argument("--keep", action="store_true", help="leave everything up")
    arguments = parser.parse_args()
    narrator = Narrator()
    # What an earlier run left behind, killed half way or kept, is taken down first.
    Lab.leftover(arguments.lab_dir).down()
    lab = Lab(arguments.lab_dir)
    story = Story(lab, narrator)
    passed = False
    try:
        story.run()
        passed = True
    except KeyboardInterrupt:
        print("\ninterrupted", file=sys.stderr)
    except Exception as error:
        traceback.print_exc()
        print(f"\nFAILED: {error}", file=sys.stderr)
        if not arguments.keep:
            kept = keep_logs(lab)
            print(f"the logs are in {kept}", file=sys.stderr)
    finally:
        if arguments.keep:
            say_how_to_look_around(lab, story)
        else:
            lab.down()
    if passed:
        print(f"\nPASS in {narrator.total_s():.0f} s", flush=True)
    return 0 if passed else 1


def keep_logs(lab: Lab) -> Path:
    """Copy the logs out of the lab before it is taken down."""
    kept = Path(tempfile.mkdtemp(prefix="holdfast-demo-logs-"))
    for log in [*lab.folder.rglob("*.log")]:
        shutil.copy(log, kept / "-".join(log.relative_to(lab.folder).parts))
    return kept


def say_how_to_look_around(lab: Lab, story: Story) -> None:
    program = Path(sys.executable).with_name("holdfast-lab")
    print("\nEverything is left up. To look around:")
    for guest in lab.guests():
        print(f"  {program} shell --dir {lab.folder} {guest.name}")
    print("the holdfast command as alice, in the lab's network:")
    print(f"  ip netns exec {lab.namespace} {' '.join(story.cluster.cli_words('alice'))} volume list")
    print("etcd:")
    watch = " ".join(story.cluster.etcdctl("get", "--prefix", "/holdfast/v1/"))
    print(f"  ip netns exec {lab.namespace} env ETCDCTL_API=3 {watch}")
    print("`make lab-down` ends it.")


if __name__ == "__main__":
    sys.exit(main())
