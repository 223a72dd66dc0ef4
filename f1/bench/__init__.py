"""`f1 bench`: how fast one model runs here, beside the machine's ceilings and any installed peer.

    run (this process)  ──question──▶  worker: f1        a process for each subject, so that their
      section by section ─question──▶  worker: llama.cpp   threads and libraries never meet; one
      rows ▸ ratios ▸ table, JSON      …                   question at a time, in turns

Within a round every subject answers the same question once: a busy machine or a falling clock meets
all of them. Figures are medians over the rounds with the whole spread.
"""
