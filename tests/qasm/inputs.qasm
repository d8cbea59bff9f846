OPENQASM 3.0;
include "stdgates.inc";
input float[64] x;
input angle[32] phi;
input array[float[64], 3] w;
gate encode(a, b) q { ry(a) q; U(a, b, -2*a) q; }
qubit[3] q;
ry(x) q[0];
rx(2*x + pi/2) q[1];
rz(-phi/3 - 0.5) q[2];
h q[2];
encode(w[0], w[1]) q[0];
ctrl @ encode(phi, x) q[0], q[1];
inv @ encode(w[2], 0.3) q[2];
for int i in [0:2] { cry((i + 1) * w[i] - i) q[i], q[(i + 1) % 3]; }
rz(x + 2*phi - w[1]) q[1];
U(x + w[-1], phi - x, w[0] + w[1] + 0.1) q[2];
pow(2) @ rx(w[1]) q[0];
gphase(x/2 + phi);
rx(x - x + 0.7) q[1];
