"""Gold answers as data sets of competition mathematics have them, the odd spellings above all."""

from __future__ import annotations

GOLDS: tuple[str, ...] = tuple(
    line
    for line in r"""
5
-50
.35625
1.25
0
-0.5
10,080
10,\!080
11,\! 111,\! 111,\! 100
32{,}768
1\,234\,567
9{,}600
\$32,\!348
\$18.90
\$ 5.40
\frac{3}{56}
\dfrac{14}{3}
\tfrac{1}{2}
\frac 59
\frac59
\frac{ 1}{17}
\frac{-35}{9}
-\frac{35}{9}
-\dfrac{1}{2}
3/2
6\frac{5}{9}
1\frac{4}{5}
2\dfrac{1}{3}
\frac{\sqrt{3}}{3}
\frac{1 + \sqrt{5}}{2}
\frac{3\sqrt{3}}{4} + \frac{\pi}{2}
\frac{2 \pi}{3}
\frac{\pi^2}{6}
\sqrt{51}
3\sqrt{13}
11\sqrt2
\sqrt[3]{2}
70 \sqrt{2}
5\sqrt[4]{3}
\sqrt{2 + \sqrt{3}}
\sqrt{\frac{5}{2}}
1 \pm \sqrt{19}
\{1\pm\sqrt{5},-2\}
\pm 1
6 - 5i
6+9i
-2 + 7i
\frac{1}{2} + \frac{\sqrt{3}}{2} i
e^{\pi i / 3}
1 + i, 1 - i
\operatorname{cis} \frac{\pi}{4}
90^\circ
145^\circ
135^{\circ}
75.5 ^\circ
\frac{\pi}{3}
85{\text{ minutes}}
15\mbox{ cm}^2
14 \text{ cm}
3.5\mbox{ inches}
864 \mbox{ inches}^2
25 \text{ sq. units}
60\text{ miles per hour}
12.8\mbox{ meters}
9\text{ boys}
13\text{ million}
$4.50
50\%
\frac{100}{3}\%
12.5 \%
4\!:\!30
6:30\text{ p.m.}
10\text{:}00 \text{ a.m.}
2:3
52_8
1011_2
4210_{7}
2A3_{11}
\text{DEF}_{16}
10101001110_{2}
\text{(C)}
(\text{A})
\textbf{(B)}
\text{(A), (C)}
\text{A, C, D}
C
D,E
A,B,D
\text{Evelyn}
\text{Navin}
\text{navy}
\text{East}
\text{even}
\text{odd}
\text{Yes}
\text{yes}
\text{none}
\text{No solution}
\text{June 20}
\text{Sunday}
\text{parabola}
\text{two-branched hyperbola}
\text{circle}
\text{point}
\text{ellipse}
\text{Friday, Monday}
\text{red and blue}
(3, \frac{\pi}{2})
\left( \frac{3}{2}, -13 \right)
(2,12)
\left(\frac{1}{4}, 3\right)
(1,-2,3)
(-\sqrt{3}, \sqrt{3})
\left( 6, \frac{2 \pi}{3}, \sqrt{3} \right)
(2,1),(-1,-2)
(0,0), (1,1), (2,4)
\left( 8, \frac{7 \pi}{6} \right)
(0,9) \cup (9,36)
(-\infty, -5) \cup (-5, 5) \cup (5, \infty)
[ -2, 7]
[0,\infty)
(-\infty,\infty)
(-\infty, 0]
[-2,1]\cup[3,7]
\left(-\infty,-\frac{3}{2}\right]
\left[ -\frac{1}{2}, \frac{1}{2} \right)
x \in [-2, 7]
\left\{ -1, 0, 1 \right\}
\{2, 4, 6\}
\{x \mid x > 3\}
\emptyset
\mathbb{R}
\mathbb{R} \setminus \{0\}
\infty
-\infty
1,-2
4,6,14,15
0,1,-1
-2,\ 3
2,3\text{ and }5
3, 5, 7, \text{ and } 9
5\text{ or }6
-\frac{3}{2}, 1
x=5
x = -4
y = 2x + 3
x = 2, y = -1
x=1 \text{ or } x=-\frac{1}{2}
f(x) = x^2 - 2
a_n = 2n+1
y^2 = 4x
x^2 + y^2 = 25
\frac{x^2}{4} + \frac{y^2}{9} = 1
5x - 7y + 11z + 4 = 0
-1\le x\le 3
x \ge 2
0 < x < \frac{\pi}{2}
x < -1 \text{ or } x > 1
n \neq 3
p - q
2k+2
3x^2 - 4x + 5
x^3 + 3x - 6
-x^2 + \frac{x}{2} - 3
(x+1)(x-2)^2
6r^2-4r-24
(3x - 5)(x + 1)
2\cos x
\tan x
-\sin x
\sec^2 x
2 \cos^2 \theta - 1
\cos 2x
\ln 2
\log_2 3
\log 5
\frac{\ln 3}{\ln 2}
e^{-x}
e^2 - 1
1 - \frac{1}{e}
2^{1007}
13^{12}
2^{-99}
10^{-6}
3 \times 10^8
6.02 \cdot 10^{23}
2^{n+1} - 1
3^{100} + 1
7!
\frac{8!}{3!}
\binom{10}{3}
{10 \choose 3}
\dbinom{5}{2}
n!
\frac{n(n+1)}{2}
\lfloor \sqrt{n} \rfloor
\left\lceil \frac{n}{2} \right\rceil
|x - 3|
\left| x \right| + 1
\begin{pmatrix} 1/5 \\ -18/5 \end{pmatrix}
\begin{pmatrix} 1 & 2 \\ 3 & 4 \end{pmatrix}
\begin{pmatrix} -7 \\ 16 \\ 5 \end{pmatrix}
\begin{bmatrix} 0 & -1 \\ 1 & 0 \end{bmatrix}
\left(\begin{array}{c} 2 \\ 3 \end{array}\right)
\begin{pmatrix} \frac{1}{2} & -\frac{\sqrt{3}}{2} \\ \frac{\sqrt{3}}{2} & \frac{1}{2} \end{pmatrix}
\mathbf{i} - 2\mathbf{j}
\langle 1, -2, 4 \rangle
\mathbf{0}
\overline{AB}
\angle ABC
\triangle ABC
\overrightarrow{AB}
AB + BC
0.\overline{3}
0.1\overline{6}
1.\overline{36}
.\overline{142857}
3.14159\ldots
1, 2, 3, \ldots, 10
\sum_{k=1}^{n} k^2
\int_0^1 x^2 \, dx
\prod_{i=1}^{n} a_i
\lim_{n \to \infty} \left(1+\frac1n\right)^n
\frac{d}{dx} \sin x
x \equiv 3 \pmod{7}
3 \pmod 8
k\pi, k \in \mathbb{Z}
\frac{\pi}{4} + 2 \pi n
a^{\frac{1}{3}} b^{-2}
\frac{a^2 + b^2}{c}
\sqrt{a^2 + b^2}
\alpha + \beta
\boxed{7}
$\frac{1}{2}$
\displaystyle \frac{1}{3}
{\frac{1}{3}}
\left.\frac{1}{2}\right.
x\sqrt{x}
x_{1} + x_{2}
f^{-1}(x)
f'(x) = 2x
C + x
\text{if } x > 0
\begin{cases} x & x > 0 \\ -x & x \le 0 \end{cases}
12 \text{ units}^3
1/2 \text{ cup}
60\degree
\mathrm{True}
\textbf{12}
\checkmark
\star
\#
?
\underline{\hspace{1cm}}
\text{\textdollar 5}
\mathcal{O}(n^2)
\varnothing
\cot^{-1} x
3\uparrow\uparrow 2
a \oplus b
A^c
P(A \mid B)
\hbar
\vec{v} \cdot \vec{w}
\neg p
""".strip().splitlines()
)
