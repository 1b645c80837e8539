"""Requests of all kinds on machines of all kinds, and what becomes of them; see `plan_rows` for how to read a row."""

from __future__ import annotations

import pytest

from tests.core.plan_rows import plan_of, shown

PLACES = """
# Whole GPUs, in file order.
4                         | a: 0                                  | none
4                         | a: 1                                  | 0
4                         | a: 1 x4                               | 0 1 2 3
4                         | a: 1 x5                               | 0 1 2 3 -
4                         | a: 2 x2                               | 0,1 2,3
4                         | a: 2; b: 1 x2                         | 0,1 2 3
4                         | a: 1; b: 2; c: 1                      | 0 1,2 3
4                         | a: 3; b: 2; c: 1                      | 0,1,2 - 3
4                         | a: 4                                  | 0,1,2,3
4                         | a: 5                                  | -
4                         | a: 5; b: 4                            | - 0,1,2,3
8                         | a: 4 x2                               | 0,1,2,3 4,5,6,7
8                         | a: 8; b: 1                            | 0,1,2,3,4,5,6,7 -
1                         | a: 2                                  | -
1                         | a: 1 x3 cpu                           | 0 cpu cpu
2                         | a: 3 cpu; b: 1                        | cpu 0
2                         | a: 3 fail; b: 1                       | - 0
gb10                      | a: 1                                  | 0
gb10                      | a: 1 200GiB                           | 0
# All of them.
4                         | a: all                                | 0,1,2,3
4                         | a: all; b: 1                          | 0,1,2,3 -
4                         | a: 1; b: all                          | 0 -
4                         | a: all @1,3; b: 1                     | 1,3 0
2xl4 2                    | a: all kind=nvidia-l4; b: 2           | 0,1 2,3
3 h100!                   | a: all                                | -
1                         | a: all                                | 0
# Fractions: integers of a thousandth, any mix up to the whole.
1                         | a: .5 x2                              | 0 0
1                         | a: .5 x3                              | 0 0 -
1                         | a: .05 x20                            | 0 0 0 0 0 0 0 0 0 0 0 0 0 0 0 0 0 0 0 0
1                         | a: .1 x10                             | 0 0 0 0 0 0 0 0 0 0
1                         | a: .2 x5                              | 0 0 0 0 0
1                         | a: .111 x9                            | 0 0 0 0 0 0 0 0 0
1                         | a: .083 x12                           | 0 0 0 0 0 0 0 0 0 0 0 0
1                         | a: .333 x3; b: .001                   | 0 0 0 0
1                         | a: .333 x3; b: .002                   | 0 0 0 -
1                         | a: .7; b: .3                          | 0 0
1                         | a: .99; b: .01                        | 0 0
1                         | a: .999; b: .001; c: .001             | 0 0 -
1                         | a: .4 x3                              | 0 0 -
2                         | a: .4 x3                              | 0 0 1
2                         | a: .6 x2; b: .4 x2                    | 0 1 0 1
2                         | a: .7; b: .7; c: .3; d: .3            | 0 1 0 1
# Whole ones stay whole: the fullest device that has room takes the next share.
2                         | a: .5; b: 1; c: .5                    | 0 1 0
2                         | a: .5; b: 1; c: 1                     | 0 1 -
3                         | a: .25; b: 1; c: .25; d: 1            | 0 1 0 2
3                         | a: .25; b: .8; c: .2                  | 0 1 1
3                         | a: .5; b: .7; c: .3; d: .5            | 0 1 1 0
3                         | a: .5; b: .7; c: .4; d: 1             | 0 1 0 2
4                         | a: .5; b: 1; c: .5 x2; d: .25 x4      | 0 1 0 2 2 2 3 3
4                         | a: .5; b: 2; c: .5; d: 1              | 0 1,2 0 3
4                         | a: 1; b: .5 x2; c: 2                  | 0 1 1 2,3
# Spread: where fewest are, then where most is left.
2                         | a: .25 x4 spread                      | 0 1 0 1
3                         | a: .25 x4 spread                      | 0 1 2 0
3                         | a: .5; b: .1 x3 spread                | 0 1 2 1
2                         | a: .9; b: .1; c: .1 x2 spread         | 0 0 1 1
2                         | a: .9; b: .2 spread; c: .2 spread     | 0 1 1
2                         | a: 1 x2 spread                        | 0 1
h100m2 h100               | a: .5 x2 spread                       | 1 0.0
# Memory: a second dimension. 78.4 of 80 GiB are to be had, 1.6 are the headroom.
1                         | a: .25 20GiB x4                       | 0 0 0 -
1                         | a: .25 19.6GiB x4                     | 0 0 0 0
1                         | a: .25 19.7GiB x4                     | 0 0 0 -
1                         | a: .1 25% x4                          | 0 0 0 -
1                         | a: .1 24.5% x4                        | 0 0 0 0
2                         | a: .25 40GiB x3                       | 0 1 -
2                         | a: .25 39GiB x3                       | 0 0 1
2                         | a: .5 60GiB; b: .5 10GiB; c: .5 20GiB | 0 0 1
2                         | a: .5; b: .5 70GiB; c: .1 70GiB       | 0 0 1
1                         | a: 1 78GiB                            | 0
1                         | a: 1 79GiB                            | -
1                         | a: 1 98%                              | 0
1                         | a: 1 98.1%                            | -
1                         | a: 1 79GiB cpu                        | cpu
l4 h100                   | a: 1 40GiB                            | 1
l4 h100                   | a: 1 40GiB x2                         | 1 -
l4 h100 l4 h100           | a: 2 40GiB                            | 1,3
l4 h100                   | a: .5 15GiB x3                        | 0 1 1
l4 h100                   | a: .5 80% x2                          | 0 1
l4 h100                   | a: .1 11GiB x2; b: .1 1GiB            | 0 0 1
t4 l4                     | a: 1 14GiB; b: 1 14GiB                | 0 1
t4 l4                     | a: 1 14.6GiB                          | 1
2 gb10                    | a: .5 60GiB x4                        | 0 1 2 2
gb10                      | a: .5 60GiB x3                        | 0 0 -
# Kinds: never by a part of a name.
l4 l40 l40s               | a: 1 kind=nvidia-l4 x2                | 0 -
l40 l4                    | a: 1 kind=nvidia-l4                   | 1
p40 p4                    | a: 1 kind=nvidia-tesla-p4             | 1
p40                       | a: 1 kind=nvidia-tesla-p4             | -
a10 a10g                  | a: 1 kind=nvidia-a10g                 | 1
a10                       | a: 1 kind=nvidia-a10g                 | -
gb200 b200                | a: 1 kind=nvidia-b200                 | 1
b200 gb200                | a: 1 kind=nvidia-gb200                | 1
gh200 h200                | a: 1 kind=nvidia-h200-141gb           | 1
a100 a100x                | a: 1 kind=nvidia-a100-80gb            | 1
a100x a100                | a: 1 kind=nvidia-tesla-a100           | 1
2xa100 a100x              | a: 2 kind=nvidia-a100-80gb            | -
l4 h100                   | a: 1 kind=nvidia-h100-80gb            | 1
h200 h100                 | a: 1 kind=nvidia-h100-80gb            | 1
h200 h100                 | a: 1 kind=nvidia-tesla-h100           | 1
h200                      | a: 1 kind=nvidia-tesla-h100 cpu       | cpu
t4 v100                   | a: 1 kind=nvidia-tesla-v100           | 1
t4 l4 t4 l4               | a: 2 kind=nvidia-l4                   | 1,3
t4 l4 a10g                | a: 1 kind=nvidia-a10g+nvidia-l4 x3    | 1 2 -
l40 l40s l4               | a: 1 kind=*L40* x3                    | 0 1 -
l40 l40s                  | a: 1 kind=*l40s                       | 1
rtx l4                    | a: 1 kind=GeForce_RTX*                | 0
rtx l4                    | a: 1 kind=NVIDIA_L?                   | 1
t4 l4                     | a: .5 kind=nvidia-l4 x3               | 1 1 -
h100m2 h100               | a: 1 kind=nvidia-h100-80gb x2         | 1 -
h100m2 h100               | a: 1 kind=*MIG_1g*                    | 0.1
# Filters, at all three levels.
4                         | a: 1 @2                               | 2
4                         | a: 1 @1,3 x3                          | 1 3 -
4                         | a: 2 @3,1                             | 1,3
4                         | a: .5 @3 x3                           | 3 3 -
4                         | a: 1 @GPU-2                           | 2
4                         | a: 1 @0000:12:00.0                    | 2
4                         | a: 1 @00000000:13:00.0,11:00.0 x2     | 1 3
4                         | a: 1 @7                               | -
4                         | a: 1 @7 cpu                           | cpu
4                         | a: 1; b: 1 @0                         | 0 -
4                         | a: 1 @0; b: 1                         | 0 1
4                         | a: 1 x3 only 1,2                      | 1 2 -
4                         | a: 1 @0 only 1,2                      | -
4                         | a: all only 1,2                       | 1,2
4                         | a: 1 @2,3 x2; b: 1 x2 only 1,2        | - - 1 2
4 only:2,3                | a: 1 x3                               | 2 3 -
4 only:3,1                | a: 1 x2; b: 1 @1                      | 3 1 -
4 only:3,1                | a: 2                                  | 3,1
4 only:2                  | a: 1 @0                               | -
# Lists: exactly these devices, booked before those who can go elsewhere.
4                         | a: [@0,1] [@2,3]                      | 0,1 2,3
4                         | a: [@0,1] [@1,2]                      | 0,1 -
4                         | a: [@2] [1] [.5] [.5]                 | 2 0 1 1
4                         | a: 1; b: [@0]                         | 1 0
4                         | a: all; b: [@0]                       | 0,1,2,3 -
1                         | a: 1; b: [@0]                         | 0 -
4                         | a: 1; b: 1; c: [@0] [@1]              | 2 3 0 1
4                         | a: [@3,1]                             | 1,3
4                         | a: [@0,5]                             | -
4                         | a: 1 [1 @3] [2] [0]                   | 3 0,1 none
4                         | a: 1 30GiB [.5] [.5 50GiB] [1]        | 0 1 2
4                         | a: [.5 @0] [.5 @0] [.5 @0]            | 0 0 -
2                         | a: kind=nvidia-l4 [@0]                | -
# Lost ones and those of another daemon.
h100! 2                   | a: 1 x3                               | 1 2 -
h100 h100! 2              | a: 3                                  | 0,2,3
h100! h100                | a: .5 x3                              | 1 1 -
h100* 2                   | a: 1 x3                               | 1 2 -
h100* h100                | a: 2                                  | -
h100!                     | a: 1 cpu                              | cpu
# MIG: instances are devices, after whole GPUs; one a worker, none beside another.
h100m3                    | a: 1 x4                               | 0.0 0.1 0.2 -
h100m0                    | a: 1                                  | -
h100m0 h100               | a: 1 x2                               | 1 -
h100m2 h100               | a: 1 x4                               | 1 0.0 0.1 -
h100m2 h100               | a: 2                                  | -
h100m4                    | a: 2                                  | -
h100m2 2                  | a: 2; b: 1                            | 1,2 0.0
h100m2 2                  | a: all; b: 1                          | 1,2 0.0
h100m2                    | a: all                                | -
h100m1                    | a: all                                | 0.0
h100m2                    | a: .5 x3                              | 0.0 0.0 0.1
h100m2 h100               | a: .5 x3                              | 1 1 0.0
h100m3                    | a: 1 9GiB x2                          | 0.1 0.2
h100m3                    | a: 1 12GiB x2                         | 0.0 -
h100m3                    | a: 1 @0 x2                            | 0.0 0.1
h100m2 h100m2             | a: 1 @1 x3                            | 1.0 1.1 -
h100m2                    | a: 1 @MIG-0.1                         | 0.1
h100m2                    | a: [@MIG-0.1] [@MIG-0.0]              | 0.1 0.0
h100m2                    | a: [@MIG-0.1,MIG-0.0]                 | -
h100m2                    | a: [@0]                               | 0.0
h100m0 h100               | a: 1 @0                               | -
h100m2                    | a: 1 @GPU-0 x2                        | 0.0 0.1
h100m2 h100 only:0        | a: 1 x3                               | 0.0 0.1 -
h100m2 h100               | a: 1 only MIG-0.1                     | 0.1
h100 h100m2               | a: 1 only 1                           | 1.0
# Links: the best worst link, then what stays together, then the lowest.
4 / 4                     | a: 4 x2                               | 0,1,2,3 4,5,6,7
1 / 3                     | a: 2                                  | 1,2
2 / 2                     | a: 1; b: 2; c: 1                      | 0 2,3 1
2 / 2                     | a: 1 x4                               | 0 1 2 3
h100! h100 / 2            | a: 1; b: 2                            | 1 2,3
3 / 3                     | a: 2 x3                               | 0,1 3,4 2,5
3 / 2                     | a: 2; b: 3                            | 3,4 0,1,2
4 / 2                     | a: 2                                  | 4,5
4 / 4                     | a: 1; b: 4; c: 3                      | 0 4,5,6,7 1,2,3
4 / 4                     | a: 6                                  | 0,1,2,3,4,5
4 / 4                     | a: .5; b: 4                           | 0 4,5,6,7
4 / 4                     | a: 1 x5; b: 2                         | 0 1 2 3 4 5,6
4 nv:02,13                | a: 2 x2                               | 0,2 1,3
4 nv:02,13                | a: 1 x2; b: 2                         | 0 2 1,3
4 nv:12                   | a: 1 x2; b: 2                         | 0 3 1,2
4 nv:12                   | a: 2 x2                               | 1,2 0,3
4 nv:123                  | a: 2; b: 2                            | 1,2 0,3
4 nv:03                   | a: 3                                  | 0,1,2
8 nv:0123,4567            | a: 4 x2                               | 0,1,2,3 4,5,6,7
8 nv:0246,1357            | a: 4; b: 2 x2                         | 0,2,4,6 1,3 5,7
8 nv:0246,1357            | a: 1; b: 4; c: 3                      | 0 1,3,5,7 2,4,6
8 nv:01,23,45,67          | a: 2 x4                               | 0,1 2,3 4,5 6,7
8 nv:01,23,45,67          | a: 1; b: 2; c: 1                      | 0 2,3 1
4 sw:02,13                | a: 2 x2                               | 0,2 1,3
4 sw:02 nv:13             | a: 2 x2                               | 1,3 0,2
4 nv:01,12,23             | a: 2; b: 2                            | 0,1 2,3
4 nv:01,12,23             | a: 2 @1,2,3                           | 2,3
4 nv:01,12,23,03          | a: 2 x2                               | 0,1 2,3
2 / 2 nv:02               | a: 2 x2                               | 0,2 1,3
# Counts: per_gpu is a place for each, fit is room for each.
4                         | a: 1 per_gpu                          | 0 1 2 3
4                         | a: .5 per_gpu                         | 0 0 1 1 2 2 3 3
2                         | a: .4 per_gpu                         | 0 0 1 1
4                         | a: 2 per_gpu                          | 0,1 2,3
5                         | a: 2 per_gpu                          | 0,1 2,3
4                         | a: 8 per_gpu                          | -
2xl4 2                    | a: 1 per_gpu kind=nvidia-l4           | 0 1
4                         | a: 1 per_gpu @1,2                     | 1 2
h100! 2                   | a: 1 per_gpu                          | 1 2
h100m3 h100               | a: 1 per_gpu                          | 1 0.0 0.1 0.2
h100m3 2                  | a: 2 per_gpu                          | 1,2
1                         | a: .1 20GiB fit                       | 0 0 0
2                         | a: .1 20GiB fit                       | 0 0 0 1 1 1
2                         | a: .5 20GiB fit                       | 0 0 1 1
2                         | a: 1 20GiB fit                        | 0 1
l4 h100                   | a: .1 10GiB fit                       | 0 0 1 1 1 1 1 1 1
2                         | b: .5 60GiB; a: .1 30GiB fit          | 0 1 1
2                         | a: .1 30GiB fit; b: .5 60GiB          | 0 0 1
1                         | a: .1 90GiB fit                       | -
1                         | a: .1 90GiB fit cpu                   | cpu
3                         | a: 2 20GiB fit                        | 0,1
"""

REFUSALS = """
4                   | a: 5                           | needs 5 GPUs, 4 of 4 are free
4                   | a: 1 x4; b: 1                  | needs 1 GPU, 0 of 4 are free; reserved for a/0, a/1, a/2, a/3
2                   | a: .5; b: 2                    | needs 2 GPUs, 1 of 2 is free; reserved for a/0
h100! h100          | a: 2                           | needs 2 GPUs, 1 of 2 is free; GPU 0 lost
h100* h100          | a: 2                           | needs 2 GPUs, 1 of 2 is free; GPU 0 is held by pid 7 of ann
4                   | a: 1; b: all                   | needs all GPUs, 3 of 4 are free; reserved for a/0
4                   | a: 1 @7                        | there is no GPU "7" on this machine
4 only:2            | a: 1 @0                        | GPU "0" is outside the pool
4                   | a: 1 @GPU-1,1                  | "1" names GPU 1 a second time
h100m0              | a: 1                           | needs 1 GPU, 0 of 0 are free; GPU 0 cut up by MIG
h100m0 h100         | a: 1 @0                        | GPU 0 is cut up by MIG and has no instance
h100m4              | a: 2                           | needs 2 GPUs, 0 of 4 are free; GPU 0 cut up by MIG;\
 a process can use one MIG instance, and no GPU beside it
1                   | a: .7; b: .5                   | needs 0.5 of a GPU; 1 of 1 match;\
 0 have room: GPU 0 has 0.3 left (a/0)
1                   | a: 1; b: .5                    | needs 0.5 of a GPU; 1 of 1 match;\
 0 have room: GPU 0 is given away (a/0)
1                   | a: .5 60GiB; b: .5 20GiB       | needs 0.5 of a GPU with 20 GiB free; 1 of 1 match;\
 0 have room:\
 GPU 0 has 18.4 GiB left beside 60 GiB declared (a/0)
1                   | a: 1 79GiB                     | needs 1 GPU with 79 GiB free; 1 of 1 match; 0 have room:\
 GPU 0 has 78.4 GiB of 80 GiB beside the headroom
2                   | a: 3 50%                       | needs 3 GPUs with 50% free; 2 of 2 match;\
 2 have room: GPU 0, 1 have room
2xl4 t4             | a: 1 kind=nvidia-h100-80gb     | needs 1 GPU of type nvidia-h100-80gb; 0 of 3 match;\
 here are nvidia-l4 (GPU 0, 1); nvidia-tesla-t4 (GPU 2)
l40 h100m1          | a: 1 kind=nvidia-l4+*A100*     | needs 1 GPU of type nvidia-l4 or *A100*; 0 of 2 match;\
 here are NVIDIA L40 (GPU 0); NVIDIA H100 80GB HBM3 MIG 2g (MIG-1.0 of GPU 1)
3 2xl4              | a: 1; b: .8 60GiB; c: 2 40GiB kind=nvidia-h100-80gb | needs 2 GPUs of type nvidia-h100-80gb\
 with 40 GiB free; 3 of 5 match; 1 has room: GPU 0 is given away (a/0); GPU 1 has 0.2 left (b/0); GPU 2 has room;\
 GPU 3, 4 are nvidia-l4
"""


def rows(table: str) -> list[tuple[str, str, str]]:
    lines = [line for line in table.replace("\\\n", "").splitlines() if line and not line.startswith("#")]
    return [tuple(part.strip() for part in line.split("|", 2)) for line in lines]  # type: ignore[misc]  # Three.


@pytest.mark.parametrize(("box", "services", "expected"), rows(PLACES))
def test_a_request_gets_its_place(box: str, services: str, expected: str) -> None:
    """Worker by worker, in the order of the file."""
    assert expected == " ".join(shown(placement) for placement in plan_of(box, services).values())


@pytest.mark.parametrize(("box", "services", "expected"), rows(REFUSALS))
def test_a_refusal_says_the_arithmetic(box: str, services: str, expected: str) -> None:
    """Of the last worker, who has no place: what it needs, what there is, and what is with each of the others."""
    *_, last = plan_of(box, services).values()

    assert (last.launch, expected) == (None, last.reason)


def test_the_table_is_long_enough() -> None:
    """Rows that a slip of the editor comments out would not be missed."""
    assert len(rows(PLACES)) + len(rows(REFUSALS)) >= 200
