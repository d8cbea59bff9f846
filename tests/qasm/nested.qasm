/* Blocks in blocks,
   and a comment of two lines. */
OPENQASM 3.0; // version after a comment
include "stdgates.inc";
#pragma nothing to see
pragma also nothing
@reversible
qreg q[2]; creg c[2];
output bit[1] r;
h q[0];
measure q[0] -> c[0];
if (c[0] == true) { reset q[0]; if (c != 0) { x q[1]; } else { z q[1]; } }
else if (c == 0) { x q[0]; barrier; }
c[1] = measure q[1];
r = measure q[0:0];
;
