"""Speed, measured side by side with what a user would pick instead.

    make bench              at the size that README shows
    make bench SIZE=0.1     a tenth of it, in two minutes or so

Each module is one kind of work. It gives `Row`s: ours and a peer, run alternately in the same session after their
results have been found equal.
"""
