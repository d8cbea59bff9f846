OPENQASM 3.0;
include "stdgates.inc";
const int n = 4;
qubit[n] q;
bit[n] c;
x q[0];
x q[2];
for int i in [n-1:-1:0] {
  h q[i];
  for int j in [i-1:-1:0] { cp(pi / 2**(i-j)) q[j], q[i]; }
}
for int i in [0:n/2-1] { swap q[i], q[n-1-i]; }
c = measure q;
