OPENQASM 3.0;
include "stdgates.inc";
qubit[2] q;
qubit a;
bit[2] c;
bit flag;
ry(1.1) q[0];
cx q[0], q[1];
flag = measure q[0];
if (flag) { x a; }
c[1] = measure a;
if (c == 2) { h a; } else { y a; }
if (c[1] && !flag || c[0] == 1) x q[1];
if (c == "10") z q[1];
bit last = measure a;
measure q[1] -> c[0];
measure q;
