OPENQASM 2.0;
include "qelib1.inc";
gate bell a,b { h a; cx a,b; }
gate turn(theta,phi) q { rz(phi) q; ry(theta/2) q; barrier q; rz(-phi) q; }
gate both(t) a,b { bell a,b; turn(t,2*t) b; turn(-t^2,sin(t)) a; }
gate nothing a,b { }
// A library gate may be replaced; later uses see the new one.
gate ch a,b { cx a,b; h b; }
qreg q[3];
both(0.4) q[2],q[0];
nothing q[0],q[1];
ch q[0],q[1];
