"""Let torch's threads sleep while they wait for each other; a command imports this before anything that loads torch.

By default OpenMP's threads wait actively, for milliseconds after each operation. On a machine with other work they keep
busy the very core that the thread they wait for needs: see "Beside other work" in docs/performance.md.
"""

import os

# Read once, when torch is loaded. What the user has set wins, as GOMP_SPINCOUNT does within libgomp.
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
