# SPDX-License-Identifier: Apache-2.0
"""What docs/results/depth.md says before and behind its tables."""

INTRODUCTION = """\
Methods on the same models, from the same calibration data, healed without labels; the recipes at the end of the page
tell for how many steps. Bytes are those of all tensors that the blocks read, over those of the original's blocks in
float32; latency is the median of one sample (128 tokens, or an image) on one thread in ONNX Runtime over the
original's, in one interleaved run (below 1 is faster). `change` is against the original on the evaluation set, with
the paired 95 % interval of seed 0, or with the range over seeds where there are several. Everything is chosen, fitted
and stopped on calibration data. Processor seconds are those of the row's own steps; what it starts from is in the row
of that name.

Controls (`control: ...`): the last third of the blocks dropped, and of what remains only the head and the last three
blocks tuned (arXiv 2411.15558); a random choice of blocks, another for each seed; blocks shared by their mean.
Independent low rank is what sharing has to beat at the same bytes.

Blocks of `judged repaired` were chosen by the outputs' error once the rest is refitted, as `remove-blocks` does by
default; those of other rows by the error before a refit.
"""

READING = """\
Where no range stands the row has one seed, or nothing in it depends on one.

### MiniLM

On which texts it is fitted and healed decides. Its task's calibration data are 2,000 film reviews; it is scored on
captions, headlines and forum posts, a quarter of whose tokens the reviews lack. Rows `on glosses` and `glosses` read
WordNet's glosses and example sentences instead (`glosses.py` makes them from the Debian package wordnet-base; 149,210
texts of 13 tokens, none of which is scored on; 2 % of the scored tokens do not occur in them). There are no labels in
either:

- **Two of six blocks removed**: 0.8514 before, with the refit that follows the cut; 0.8516 healed on reviews, 0.8627,
  -0.51 %, on glosses for 1,000 steps, and -0.60 % with 4 bits, 1/11.24 of the bytes. The goal, 3 % at 0.70 of the
  time, is met, and that of 4 % at 1/11. It is the refit that does it, not the choice: two blocks taken at random and
  refitted lose 1.4 to 2.3 %, and 0.36 % (mean of three, 0.23 to 0.58) healed as long on the same texts, less than the
  search. Judged repaired, it loses 1.90 % as refitted and 0.50 % (mean of three, 0.45 to 0.58) healed: no difference.
  The last two dropped as they are lose 22.9 %, and 6.4 % (mean of three, 6.2 to 6.8) when the last three that remain
  (its head is a mean) are tuned for as long. Layer fusion, with as many steps on as many texts, loses 0.58 (mean of
  three, 0.52 to 0.61).
- **Half in shared factors**: 0.8265 before; 0.8273 healed on 1,800 reviews for 400 steps; 0.8578, -1.1 %, on glosses
  for 2,500. The goal, 2 %, is met. One set of matrices for blocks 1 to 4 is the dearest form: -8.7 % before and 2.8 %
  (mean of three, 2.7 to 3.0) healed on glosses. Behind it is the control that shares their mean, -5.6 and 2.5 % (mean
  of three, 2.4 to 2.6): it is ahead of strict sharing here.
- **0.47 in shared factors, 4 bits**, rounded by what each calls for: 1/15.02 of the bytes at -2.5 %. The goal, 1/15
  within 4 %, is met. In float it loses 1.5 %, and 3.6 with nothing trained (fitted on 512 glosses; 5.2 on 256 reviews
  with as many tokens).
- **Two blocks removed, the rest in shared factors, 4 bits**: 1/22.48 of the bytes, 0.22 of the time, -3.4 % (300
  steps on glosses; -6.8 on reviews).
- **Independent low rank**, which sharing has to beat, is ahead of it at equal bytes: at 0.47 3.15 % against 3.60 with
  nothing trained, 1.32 against 1.51 healed, 1.36 against 2.55 in 4 bits (three seeds, 1/14.93 of the bytes against
  1/15.02), and it multiplies less, 0.50 of the MACs against 0.61. Its layers are refitted after the cut; those of the
  factors here are not, which took five minutes more and was done on reviews alone.
- **One file of several depths** is 1.7 % behind at four of six blocks and 3.1 at three.

The rate 0.008 is too much (held-out loss 1.89 after 400 steps, 1.53 with 0.003). On reviews all forms had ended
between 0.824 and 0.828 wherever they started, while the loss on held-out reviews fell by half: a held-out part of the
same text does not tell of another. `splice`, `swap`, half the rate and embeddings that stay did not help there.

Rows of 2026-11-21 are of that day; their models are gone, and so they have no latency. Rows at padding, three fifths
of the calibration rows, counted in refits until they were left out on 2026-11-22; `third removed`, the rows at 0.47
and those `on glosses` that are fitted there are without them. It makes little difference: with them `third removed`
was 0.8524, from which the rows of 2026-11-22 behind it start.

### Character GPT

The given checkpoint was not trained to its end: perplexity 6.62. `charlm_training.py` trained it further, 3,500 steps
with labels on the training text (held-out loss 1.785 to 1.412), to 4.63, and that is the model here. It matters: of
the given one half in shared factors took 0.5 % untrained and 0.1 healed, two removed blocks 4.5 and 1.5. A model that
has learnt what its size allows has less depth to spare, and nothing that shares or removes whole blocks is cheap on
it.

- **Half in shared factors** loses least at its bytes, 9.3 % untrained and 5.0 % (4.9 to 5.1) healed, where low rank
  loses 11.9 % and 6.4 % (6.4 to 6.5), half removed 75.7 % and 39.5 % (39.3 to 39.5), one set of matrices for several
  blocks 268.3 % and 58.6 % (58.3 to 59.1), and the control that shares their mean 610.6 % and 68.0 % (67.7 to 68.2).
  In 4 bits shared factors lose 11.2 % (10.8 to 11.6), whole shared matrices 65.1 % (63.5 to 66.7) (`rtn`: 34.3 %
  (33.4 to 35.7) and 67.5 % (66.6 to 68.1)), the model as it is 0.5 %.
- **A third removed**: which blocks go decides, and they have to be judged repaired. Search by the outputs' error
  without a refit takes blocks 2 and 5, 54.3 % once refitted and 29.9 % (29.9 to 30.0) healed; three random draws lose
  66.0 % (44.5 to 98.9) and healed 33.3 % (24.9 to 43.2), the best of them less than the search. Judged by the error
  once the rest is refitted, on batches that the refit has not seen, blocks 1 and 2 go: 29.4 % and 13.9 % (13.7 to
  14.1), in 4 bits 15.0 % (14.6 to 15.4). Of three removed blocks the loss is 74 % and 41 healed so.
  [removal_repaired.md](removal_repaired.md) has all fifteen pairs. `remove-blocks`, `elastic-depth` and the recipe
  `shallow` judge so since. The control that drops the last ones and tunes the head and three blocks loses 53.1 %
  (53.0 to 53.2). Layer fusion, with as many steps as healing, loses 30.3 % (30.1 to 30.6). [removal.md](removal.md)
  sets all criteria, without a refit, beside every choice there is.
- **One file of several depths** is 66.9 % behind at four of six blocks and 94.5 % at three, 186.8 % and 368.7 %
  without the refit. With blocks judged repaired it is 34 and 90 %.

### ViT

- **Removal**: the search takes the last two blocks, as the cheap control does, and the control, its head and last
  three blocks tuned, is ahead: 0.33 points lost, where the refit alone loses 0.45, healing 0.52 and layer fusion
  0.75. Judged repaired, the same blocks go, of two and of three. Removed in halves or whole blocks, to 0.61 of the
  MACs and 1/1.71 of the bytes, it loses 0.33 with nothing trained, and 0.36 healed. On this model healing towards the
  outputs gains nothing on the refit; towards the last hidden tensors (`tail`) it ends at 0.42, towards all at 0.47,
  and at 0.35 when the first half of the steps sees these alone, with adapters of rank 4 at 0.41 (means of three
  seeds). Random blocks lose 1.2 to 9.8.
- **Half of the bytes**: shared factors lose 0.13 points healed (0.48 in 4 bits), low rank 0.42, removal 1.45, whole
  shared matrices 1.75, their mean 2.5. Strict sharing of feed-forward halves alone loses 0.6 with nothing trained, of
  attention alone 8.4. Atoms (every matrix a mixture of a few, MASA) lose 2.35 untrained and 0.08 healed, as little as
  factors, but multiply 1.30 times as much as the original where factors take 0.62.
- **Corrections** (scales for each use, products of rank 2) count against the bytes, so that more blocks share: one
  set of matrices for blocks 1 to 5 with scales loses 38 points and 4.1 healed, with products 21 and 4.5, with both 16
  and 3.0, at 1/2.5 to 1/2.8 of the bytes; without, and fewer blocks sharing, 11 and 1.75 at 1/1.95.
- **One file of several depths**: the refit helps at three of six blocks (94.1 against 93.0) and not at four, where
  96.03 stand against 96.28 without it, at less bytes and time; on calibration data that it has not seen it is better
  at both, so that `elastic-depth`, which has looked at that since these files were made, keeps it. In 4 bits (every
  branch packed) the file has 0.34 MB and loses 0.72 and 2.47 points at four and three blocks.

### ResNet-56

It loses most before it is trained, 4.4 points without 8 of its 25 equal blocks (0.70 of the MACs), and 22 without the
refit. Healed for 400 steps with blends, 5.5 processor minutes, it ends 0.675 points below its original, the mean of
three seeds (-0.50, -0.775, -0.75): the goal of 0.7 holds for the mean, two of the three are just beyond it. In 4 bits
the three lose 0.33, 0.95, 0.62 (1/10.5). Judged repaired, other blocks go, at the same MACs and more of the bytes
(1/1.21): 3.7 points untrained and 0.32 healed (0.42, 0.67, -0.15), so that each seed holds the goal. The original
under the same training stays what it is with each of three seeds: taught by itself its loss is 0
([healing.md](healing.md) has it taught by the mean over mirrored images, where it gains).

Three random choices at the same MACs, refitted, lose as much as the search, 4.4 points in the mean (2.9 to 5.3, with
1/1.18 to 1/1.58 of the bytes): the refit does it here too, and healed as long they lose 1.0, 1.2, -0.3, which is in
the mean no more than the search. The last blocks, dropped as they are, lose 61, 24.3, 24.2, 24.5 tuned. Layer fusion
loses 4.0 and 3.9. Low rank loses 1.4 at the bytes of two thirds (0.86 of the MACs) and 4.8 at half, 0.4, 0.7, 0.8
healed: at half of the bytes it is where removal at two thirds is. Shared factors are for matrix products and find
nothing in it. Half of the MACs removed is too much for it: 25 points, healed 11.8, 12.1, 12.0, with 4 bits 12.0,
12.1, 12.2 (1/34.5 of the bytes); so is one set of weights for several blocks, 61 points at 1/2.31, healed 9.5, 9.5,
9.0, and their mean (56, 7.8, 8.1, 7.6 healed). One file of several depths stores 1.57 times the bytes, for the
refits, and loses 2.9 points at 18 of 25 blocks and 21 at 13.

### Bytes and memory

With 4 bits, half shared in one matrix is 1/14.68 with `shift-lut`, 1/14.69 with `shift` and 1/15.13 with one scale a
column (`rtn`, whose metric was not measured); 4 % of them are biases and normalizations in float32. Factors have more
columns, 1/14.26 at half. The memory of ONNX Runtime falls with the file ([shared_memory.md](shared_memory.md)).
"""
