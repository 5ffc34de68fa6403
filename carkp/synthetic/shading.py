"""Deferred shading: colours every pixel of a drawn picture from the triangle that it shows."""

from __future__ import annotations

import math
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from carkp.synthetic._jit import compiled
from carkp.synthetic.backdrop_paint import facade_colour, foliage_colour
from carkp.synthetic.camera import Lens
from carkp.synthetic.car import CarLook
from carkp.synthetic.car_paint import CHROME, GLASS, LENS, MATTE, PAINT, car_surface
from carkp.synthetic.ground import Ground, ground_colour
from carkp.synthetic.lighting import Light, Rgb, haze_share, sky_light, sky_radiance, surroundings
from carkp.synthetic.materials import FACADE, FOLIAGE
from carkp.synthetic.mesh import Floats, Ints, Mesh
from carkp.synthetic.noise import value_noise
from carkp.synthetic.render import ShadowMap, sunlit

Array = NDArray[np.float64]
Window = tuple[int, int, int, int]
"""First row, first column, end row, end column."""


GROUND, SKY = -1, -2
"""In place of a triangle's number."""


class Canvas(NamedTuple):
    """A supersampled picture (H, W, 3) in linear light, and what each pixel shows: (H, W) each."""

    picture: Floats
    nearness: Floats
    owner: Ints  # number of the moving thing, -1: backdrop
    triangle: Ints


@compiled
def ray(lens: Lens, column: float, row: float) -> Rgb:
    """Direction of a picture point, scaled to depth 1."""
    a, b = (column - lens.centre_x) / lens.focal, (row - lens.centre_y) / lens.focal
    return (lens.rx * a + lens.dx * b + lens.fx, lens.ry * a + lens.dy * b + lens.fy, lens.rz * a + lens.dz * b + lens.fz)


@compiled
def weights(mesh: Mesh, index: int, x: float, y: float, z: float) -> Rgb:
    """Barycentric weights of a point on a triangle."""
    a, b, c = mesh.faces[index]
    points = mesh.vertices
    ax, ay, az = points[a, 0], points[a, 1], points[a, 2]
    bx, by, bz = points[b, 0] - ax, points[b, 1] - ay, points[b, 2] - az
    cx, cy, cz = points[c, 0] - ax, points[c, 1] - ay, points[c, 2] - az
    px, py, pz = x - ax, y - ay, z - az
    bb, bc, cc = bx * bx + by * by + bz * bz, bx * cx + by * cy + bz * cz, cx * cx + cy * cy + cz * cz
    pb, pc = px * bx + py * by + pz * bz, px * cx + py * cy + pz * cz
    scale = 1.0 / max(bb * cc - bc * bc, 1e-14)
    v = min(max((cc * pb - bc * pc) * scale, 0.0), 1.0)
    w = min(max((bb * pc - bc * pb) * scale, 0.0), 1.0)
    return (max(1.0 - v - w, 0.0), v, w)


@compiled
def blend(table: Floats, faces: Ints, index: int, bary: Rgb, column: int) -> float:
    a, b, c = faces[index]
    return bary[0] * table[a, column] + bary[1] * table[b, column] + bary[2] * table[c, column]


@compiled
def normal_at(mesh: Mesh, index: int, bary: Rgb) -> Rgb:
    table, faces = mesh.normals, mesh.faces
    return (blend(table, faces, index, bary, 0), blend(table, faces, index, bary, 1), blend(table, faces, index, bary, 2))


@compiled
def attributes_at(mesh: Mesh, index: int, bary: Rgb) -> tuple[float, float, float, float]:
    table, faces = mesh.attributes, mesh.faces
    return (
        blend(table, faces, index, bary, 0),
        blend(table, faces, index, bary, 1),
        blend(table, faces, index, bary, 2),
        blend(table, faces, index, bary, 3),
    )


@compiled
def find_ground(lens: Lens, nearness: Floats, triangle: Ints) -> None:
    """Let the ground hide what lies under it; mark ground and sky in ``triangle``."""
    height, width = nearness.shape
    for i in range(height):
        for j in range(width):
            on_ground = -ray(lens, j + 0.5, i + 0.5)[2] / lens.z
            if on_ground > nearness[i, j] and on_ground > 0.004:
                nearness[i, j] = on_ground
                triangle[i, j] = GROUND
            elif nearness[i, j] <= 0.0:
                triangle[i, j] = SKY


@compiled
def shade_backdrop(
    lens: Lens, light: Light, ground: Ground, facades: Array, shadow: ShadowMap, mesh: Mesh,
    nearness: Floats, triangle: Ints, ambient: Floats, sun: Floats,
) -> None:  # fmt: skip
    """Fill the sky-lit and the sunlit part of a whole picture; blocks of 2x2 pixels that show one surface are shaded
    once, in their middle."""
    height, width = nearness.shape
    for i in range(0, height, 2):
        for j in range(0, width, 2):
            k, q = triangle[i, j], nearness[i, j]
            if triangle[i, j + 1] == k and triangle[i + 1, j] == k and triangle[i + 1, j + 1] == k:
                middle = 0.5 * (q + nearness[i + 1, j + 1])
                direction = ray(lens, j + 1.0, i + 1.0)
                colour, direct = backdrop_light(lens, light, ground, facades, shadow, mesh, k, middle, direction)
                for di in range(2):
                    for dj in range(2):
                        store(ambient, i + di, j + dj, colour)
                        store(sun, i + di, j + dj, direct)
                continue
            for di in range(2):
                for dj in range(2):
                    k, q = triangle[i + di, j + dj], nearness[i + di, j + dj]
                    direction = ray(lens, j + dj + 0.5, i + di + 0.5)
                    colour, direct = backdrop_light(lens, light, ground, facades, shadow, mesh, k, q, direction)
                    store(ambient, i + di, j + dj, colour)
                    store(sun, i + di, j + dj, direct)


@compiled
def store(picture: Floats, i: int, j: int, colour: Rgb) -> None:
    picture[i, j, 0] = colour[0]
    picture[i, j, 1] = colour[1]
    picture[i, j, 2] = colour[2]


@compiled
def backdrop_light(
    lens: Lens, light: Light, ground: Ground, facades: Array, shadow: ShadowMap, mesh: Mesh, k: int, q: float, d: Rgb
) -> tuple[Rgb, Rgb]:
    """Sky-lit and sunlit part of what lies in direction ``d`` at nearness ``q``, through the haze."""
    if k == SKY:
        length = math.sqrt(d[0] * d[0] + d[1] * d[1] + d[2] * d[2])
        return far_away(light, d[0] / length, d[1] / length, d[2] / length), (0.0, 0.0, 0.0)
    if k == GROUND:
        colour, direct, share = shade_ground(lens, light, ground, shadow, d[0], d[1], q)
    else:
        p = (lens.x + d[0] / q, lens.y + d[1] / q, lens.z + d[2] / q)
        bary = weights(mesh, k, p[0], p[1], p[2])
        n, a = normal_at(mesh, k, bary), attributes_at(mesh, k, bary)
        colour, direct, share = shade_thing(light, facades, shadow, mesh.materials[k], p, n, a, d, q)
    keep = 1.0 - share
    hazed = (
        colour[0] * keep + light.horizon_red * share,
        colour[1] * keep + light.horizon_green * share,
        colour[2] * keep + light.horizon_blue * share,
    )
    return hazed, (direct[0] * keep, direct[1] * keep, direct[2] * keep)


@compiled
def shade_ground(
    lens: Lens, light: Light, ground: Ground, shadow: ShadowMap, dx: float, dy: float, q: float
) -> tuple[Rgb, Rgb, float]:
    """Sky-lit part, sunlit part, share of haze."""
    x, y = lens.x + dx / q, lens.y + dy / q
    r, g, b = ground_colour(ground, x, y, 2.0 / (q * lens.focal))
    sr, sg, sb = sky_light(light, 1.0)
    lit = sunlit(shadow, x, y, 0.0, 0.08) * light.sun_z
    direct = (r * lit * light.sun_red, g * lit * light.sun_green, b * lit * light.sun_blue)
    return (r * sr, g * sg, b * sb), direct, haze_share(light, 1.0 / q)


@compiled
def shade_thing(
    light: Light, facades: Array, shadow: ShadowMap, material: int, p: Rgb, n: Rgb,
    a: tuple[float, float, float, float], d: Rgb, q: float,
) -> tuple[Rgb, Rgb, float]:  # fmt: skip
    """Sky-lit part, sunlit part and share of haze of a point on a building, a tree or street furniture."""
    nx, ny, nz = n
    if nx * d[0] + ny * d[1] + nz * d[2] > 0.0:
        nx, ny, nz = -nx, -ny, -nz
    mirror = 0.0
    r, g, b = a[0], a[1], a[2]
    if material == FACADE:
        r, g, b, mirror = facade_colour(facades, light, a[0], a[1], a[2], a[3], nz)
    elif material == FOLIAGE:
        r, g, b = foliage_colour(r, g, b, p[0], p[1], p[2])
    facing = nx * light.sun_x + ny * light.sun_y + nz * light.sun_z
    if material == FOLIAGE:
        facing = 0.35 + 0.65 * facing
    lit = max(facing, 0.0)
    if lit > 0.0:
        lit *= sunlit(shadow, p[0] + 0.1 * nx, p[1] + 0.1 * ny, p[2] + 0.1 * nz, 0.12)
    sr, sg, sb = sky_light(light, nz)
    low = 0.6 + 0.4 * min(p[2] / 1.5, 1.0)
    colour = (r * sr * low, g * sg * low, b * sb * low)
    if mirror > 0.0:
        length = math.sqrt(d[0] * d[0] + d[1] * d[1] + d[2] * d[2])
        dot = 2.0 * (d[0] * nx + d[1] * ny + d[2] * nz) / length
        mr, mg, mb = surroundings(light, d[0] / length - dot * nx, d[1] / length - dot * ny, d[2] / length - dot * nz)
        colour = (colour[0] + 0.35 * mirror * mr, colour[1] + 0.35 * mirror * mg, colour[2] + 0.35 * mirror * mb)
    direct = (r * lit * light.sun_red, g * lit * light.sun_green, b * lit * light.sun_blue)
    return colour, direct, haze_share(light, 1.0 / q)


@compiled
def far_away(light: Light, dx: float, dy: float, dz: float) -> Rgb:
    """Sky, and below a jagged line the far end of town."""
    azimuth = math.atan2(dy, dx)
    block = value_noise(math.floor(azimuth * 18.0) * 7.3, 0.5, int(light.seed) + 3)
    ridge = 0.05 + 0.16 * block * light.skyline + 0.02 * value_noise(azimuth * 14.0, 0.0, int(light.seed))
    if dz < ridge:
        tone = 0.14 + 0.12 * value_noise(azimuth * 40.0, dz * 60.0, int(light.seed) + 5)
        lit = light.horizon_green + 0.3 * light.sun_green
        return (1.02 * tone * lit, tone * lit, 0.98 * tone * lit)
    return sky_radiance(light, dx, dy, dz)


@compiled
def shade_car(
    window: Window, lens: Lens, light: Light, look: CarLook, place: tuple[float, float, float, float],
    static: ShadowMap, moving: ShadowMap, mesh: Mesh, canvas: Canvas, own: int,
) -> None:  # fmt: skip
    """Colour the pixels that car number ``own`` shows. place: x, y, cosine and sine of the heading; the mesh is in the
    car's own axes. Of a block of 2x2 pixels inside the car, two on a diagonal are shaded."""
    owner, picture = canvas.owner, canvas.picture
    for i in range(window[0], window[2], 2):
        for j in range(window[1], window[3], 2):
            inside = owner[i, j] == own and owner[i, j + 1] == own and owner[i + 1, j] == own and owner[i + 1, j + 1] == own
            for di in range(2):
                for dj in range(2):
                    if owner[i + di, j + dj] == own and not (inside and di != dj):
                        colour = car_light(lens, light, look, place, static, moving, mesh, canvas, i + di, j + dj)
                        put(picture, i + di, j + dj, light, colour, 1.0 / canvas.nearness[i + di, j + dj])
            if inside:
                for channel in range(3):
                    mean = 0.5 * (picture[i, j, channel] + picture[i + 1, j + 1, channel])
                    picture[i, j + 1, channel] = mean
                    picture[i + 1, j, channel] = mean


@compiled
def car_light(
    lens: Lens, light: Light, look: CarLook, place: tuple[float, float, float, float],
    static: ShadowMap, moving: ShadowMap, mesh: Mesh, canvas: Canvas, i: int, j: int,
) -> Rgb:  # fmt: skip
    px, py, pc, ps = place
    ox, oy = lens.x - px, lens.y - py
    wx, wy, dz = ray(lens, j + 0.5, i + 0.5)
    q, k = canvas.nearness[i, j], canvas.triangle[i, j]
    dx, dy = wx * pc + wy * ps, wy * pc - wx * ps
    x, y, z = ox * pc + oy * ps + dx / q, oy * pc - ox * ps + dy / q, lens.z + dz / q
    bary = weights(mesh, k, x, y, z)
    n, a = normal_at(mesh, k, bary), attributes_at(mesh, k, bary)
    surface = car_surface(look, mesh.materials[k], x, y, z, a[0], a[1], a[2], a[3], n[0])
    at_x, at_y = px + x * pc - y * ps, py + x * ps + y * pc
    lit = sunlit(moving, at_x, at_y, z, 0.05) * sunlit(static, at_x, at_y, z, 0.15)
    length = math.sqrt(dx * dx + dy * dy + dz * dz)
    return finish(light, look, surface, (x, y, z), n, (dx / length, dy / length, dz / length), lit, pc, ps)


@compiled
def put(picture: Floats, i: int, j: int, light: Light, colour: Rgb, distance: float) -> None:
    """Write a colour, seen through the haze."""
    share = haze_share(light, distance)
    picture[i, j, 0] = colour[0] + (light.horizon_red - colour[0]) * share
    picture[i, j, 1] = colour[1] + (light.horizon_green - colour[1]) * share
    picture[i, j, 2] = colour[2] + (light.horizon_blue - colour[2]) * share


@compiled
def finish(
    light: Light, look: CarLook, surface: tuple[int, float, float, float, float], p: Rgb, n: Rgb, d: Rgb,
    lit: float, pc: float, ps: float,
) -> Rgb:  # fmt: skip
    """Radiance of a car's surface point; p, n, d in the car's axes, turned to the world by (pc, ps) for the sky."""
    kind, r, g, b, glow = surface
    length = math.sqrt(n[0] * n[0] + n[1] * n[1] + n[2] * n[2]) + 1e-9
    nx, ny, nz = n[0] / length, n[1] / length, n[2] / length
    dot = nx * d[0] + ny * d[1] + nz * d[2]
    if dot > 0.0:
        nx, ny, nz, dot = -nx, -ny, -nz, -dot
    sx, sy = light.sun_x * pc + light.sun_y * ps, light.sun_y * pc - light.sun_x * ps
    facing = max(nx * sx + ny * sy + nz * light.sun_z, 0.0) * lit
    ar, ag, ab = sky_light(light, nz)
    open_sky = 0.45 + 0.55 * min(max(p[2] / 0.7, 0.0), 1.0)
    r0, g0, b0 = r * (ar * open_sky + facing * light.sun_red), g * (ag * open_sky + facing * light.sun_green), b * (ab * open_sky + facing * light.sun_blue)
    if glow > 0.0:
        r0, g0, b0 = r0 + r * glow, g0 + g * glow, b0 + b * glow
    if kind == MATTE:
        return (r0, g0, b0)
    if kind == GLASS:
        r0, g0, b0 = cabin_view(light, look, p, d, (r0, g0, b0))
    mx, my, mz = d[0] - 2.0 * dot * nx, d[1] - 2.0 * dot * ny, d[2] - 2.0 * dot * nz
    er, eg, eb = surroundings(light, mx * pc - my * ps, mx * ps + my * pc, mz)
    glint = max(mx * sx + my * sy + mz * light.sun_z, 0.0)
    sharp = glint**250 * 12.0 * lit if glint > 0.97 else 0.0
    fresnel = 0.05 + 0.95 * (1.0 - min(-dot, 1.0)) ** 5
    if kind == CHROME:
        sharp += 0.5 * glint**12 * lit
        return (0.35 * r0 + r * (er + sharp * light.sun_red), 0.35 * g0 + g * (eg + sharp * light.sun_green), 0.35 * b0 + b * (eb + sharp * light.sun_blue))
    if kind == PAINT:
        flakes = look.metallic * (0.35 * glint**10 * lit + 0.12)
        r0, g0, b0 = r0 + r * flakes * (light.sun_red + er), g0 + g * flakes * (light.sun_green + eg), b0 + b * flakes * (light.sun_blue + eb)
    if kind == GLASS or kind == LENS:
        fresnel = 0.07 + 0.93 * (1.0 - min(-dot, 1.0)) ** 5
    dull = open_sky if p[2] < 0.7 else 1.0
    keep = 1.0 - fresnel
    return (
        r0 * keep + fresnel * dull * er + 0.12 * sharp * light.sun_red,
        g0 * keep + fresnel * dull * eg + 0.12 * sharp * light.sun_green,
        b0 * keep + fresnel * dull * eb + 0.12 * sharp * light.sun_blue,
    )


@compiled
def cabin_view(light: Light, look: CarLook, p: Rgb, d: Rgb, behind: Rgb) -> Rgb:
    """What a window shows: a dim cabin with seats, and daylight through the windows on the other side."""
    clear = (1.0 - look.tint) ** 1.5
    dim = 0.05 * clear + 0.008
    r, g, b = behind[0] * 0.3 + dim * light.horizon_red, behind[1] * 0.3 + dim * light.horizon_green, behind[2] * 0.3 + dim * light.horizon_blue
    if abs(d[1]) > 0.15:
        side = 1.0 if d[1] > 0.0 else -1.0
        t = (side * (look.half_width - 0.16) - p[1]) / d[1]
        x, z = p[0] + t * d[0], p[2] + t * d[2]
        low, high = look.deck_z + 0.02, look.height - 0.14
        is_open = low < z < high and look.roof_rear_x + 0.05 < x < look.roof_front_x + 0.35
        is_open = is_open and abs(x - look.pillar_b) > 0.09 and abs(x - look.pillar_b + 0.22) > 0.13
        if t > 0.3 and is_open and x > look.glass_rear:
            r, g, b = r + 0.42 * clear * light.horizon_red, g + 0.42 * clear * light.horizon_green, b + 0.42 * clear * light.horizon_blue
    return (r, g, b)


@compiled
def shade_plain(
    window: Window, lens: Lens, light: Light, static: ShadowMap, moving: ShadowMap, mesh: Mesh, canvas: Canvas, own: int
) -> None:
    """Colour the pixels of a plainly coloured thing (a person) given in world axes."""
    for i in range(window[0], window[2]):
        for j in range(window[1], window[3]):
            if canvas.owner[i, j] != own:
                continue
            dx, dy, dz = ray(lens, j + 0.5, i + 0.5)
            q, k = canvas.nearness[i, j], canvas.triangle[i, j]
            x, y, z = lens.x + dx / q, lens.y + dy / q, lens.z + dz / q
            bary = weights(mesh, k, x, y, z)
            n, a = normal_at(mesh, k, bary), attributes_at(mesh, k, bary)
            facing = light.sun_x * n[0] + light.sun_y * n[1] + light.sun_z * n[2]
            lit = max(facing, 0.0) * sunlit(moving, x, y, z, 0.08) * sunlit(static, x, y, z, 0.15)
            ar, ag, ab = sky_light(light, n[2])
            colour = (a[0] * (ar + lit * light.sun_red), a[1] * (ag + lit * light.sun_green), a[2] * (ab + lit * light.sun_blue))
            put(canvas.picture, i, j, light, colour, 1.0 / q)


@compiled
def relight(
    window: Window, lens: Lens, moving: ShadowMap, places: Array, ambient: Floats, sun: Floats, canvas: Canvas
) -> None:
    """Cast the cars' shadows on the backdrop. places: (cars, 6): x, y, cosine, sine, half length, half width."""
    for i in range(window[0], window[2]):
        for j in range(window[1], window[3]):
            q = canvas.nearness[i, j]
            if canvas.owner[i, j] >= 0:
                continue
            if q <= 0.0:
                for channel in range(3):
                    canvas.picture[i, j, channel] = ambient[i, j, channel]
                continue
            dx, dy, dz = ray(lens, j + 0.5, i + 0.5)
            x, y, z = lens.x + dx / q, lens.y + dy / q, lens.z + dz / q
            lit = sunlit(moving, x, y, z, 0.03)
            open_sky = open_sky_at(places, x, y) if z < 0.3 else 1.0
            for channel in range(3):
                canvas.picture[i, j, channel] = ambient[i, j, channel] * open_sky + sun[i, j, channel] * lit


@compiled
def open_sky_at(places: Array, x: float, y: float) -> float:
    """Share of skylight that the cars leave to a point of the ground."""
    share = 1.0
    for k in range(len(places)):
        ox, oy = x - places[k, 0], y - places[k, 1]
        along = abs(ox * places[k, 2] + oy * places[k, 3]) - places[k, 4]
        across = abs(oy * places[k, 2] - ox * places[k, 3]) - places[k, 5]
        if along < 1.2 and across < 1.2:
            gap = max(along, across) if along < 0.0 or across < 0.0 else math.hypot(along, across)
            share *= contact(gap)
    return share


@compiled
def contact(gap: float) -> float:
    """Share of skylight that reaches the ground ``gap`` metres outside (negative: under) a car's outline."""
    if gap > 1.0:
        return 1.0
    if gap < -0.7:
        return 0.10
    if gap < 0.0:
        return 0.38 + 0.4 * gap
    return 0.38 + 0.62 * (1.0 - (1.0 - gap) ** 2)
