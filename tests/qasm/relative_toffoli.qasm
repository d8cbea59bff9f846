OPENQASM 2.0;
include "qelib1.inc";
qreg q[3];
u3(0.3,0.5,-0.7) q[0];
u3(1.3,-0.5,0.7) q[1];
u3(2.3,0.2,0.4) q[2];
rccx q[0],q[1],q[2];
