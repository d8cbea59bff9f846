// Every gate of qelib1.inc.
OPENQASM 2.0;
include "qelib1.inc";
qreg q[5];
u3(0.3,0.5,-0.7) q[0]; u2(0.4,1.1) q[1]; u1(0.9) q[0]; u(1.2,-0.2,0.6) q[2]; p(0.8) q[2];
u0(1) q[0]; id q[3];
h q[3]; x q[4]; y q[0]; z q[1]; s q[2]; sdg q[3]; t q[3]; tdg q[1]; sx q[4]; sxdg q[2];
rx(0.7) q[0]; ry(-1.3) q[1]; rz(2.1) q[2];
cx q[0],q[1]; cy q[1],q[2]; cz q[2],q[3]; ch q[3],q[4]; csx q[4],q[0];
swap q[0],q[3]; cswap q[1],q[2],q[4]; ccx q[0],q[1],q[2];
crx(0.35) q[0],q[2]; cry(1.7) q[2],q[4]; crz(-0.45) q[4],q[1];
cu1(0.65) q[1],q[3]; cp(-0.85) q[0],q[4]; cu3(0.15,0.25,0.55) q[3],q[2]; cu(0.95,1.05,-0.6,0.75) q[2],q[0];
rxx(0.44) q[1],q[4]; rzz(-0.66) q[0],q[3];
c3x q[0],q[1],q[2],q[3]; c3sqrtx q[1],q[2],q[3],q[4]; c4x q[0],q[1],q[2],q[3],q[4];
