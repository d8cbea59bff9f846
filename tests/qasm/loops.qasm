OPENQASM 3.0;
include "stdgates.inc";
const int[32] n = 5;
const float[64] step = pi / 8;
const bool extra = n > 4 && !(n == 6);
gate ladder(t) a, b, c { for int k in [1:3] { rz(k*t) a; cx a, b; } for uint k in {4, 2} cp(t/k) b, c; }
qubit[n] q;
h q[0];
for int i in [0:n-2] { cx q[i], q[i+1]; ry(i*step) q[i]; }
for uint[8] j in [4:-2:0] rx(j/2.0) q[j];
for i in {3, 1} { for int j in [i:i+1] { cz q[j], q[(j+1) % n]; } }
x q[-1];
y q[-n];
h q[1:3];
s q[0:2:4];
t q[::2];
z q[3:-1:2];
sx q[{0, 4}];
let odd = q[1:2:4];
let mixed = odd ++ q[0:0];
rx(0.3) mixed;
cx odd[0], mixed[2];
if (extra) rz(0.2) q[2]; else rz(0.4) q[2];
if (n < 3) { x q[0]; }
ladder(0.1) q[0], q[2], q[4];
