"""Lighting of cars: clear-coated paint, glass with a cabin behind it, lamps, chrome."""

from __future__ import annotations

import math
from collections.abc import Sequence

from carkp.synthetic._jit import compiled, inlined
from carkp.synthetic.camera import Lens
from carkp.synthetic.car_cabin import cabin_view
from carkp.synthetic.car_look import CarLook
from carkp.synthetic.car_paint import car_surface
from carkp.synthetic.lighting import Light, Rgb, sky_light, surroundings
from carkp.synthetic.mesh import Mesh
from carkp.synthetic.render import ShadowMap, sunlit
from carkp.synthetic.shading import Canvas, Window, attributes_at, normal_at, put, ray, weights
from carkp.synthetic.surfaces import CHROME, GLASS, MATTE, PAINT


@compiled
def shade_car(
    window: Window, lens: Lens, light: Light, looks: Sequence[CarLook], place: tuple[float, float, float, float],
    static: ShadowMap, moving: ShadowMap, mesh: Mesh, canvas: Canvas, own: int,
) -> None:  # fmt: skip
    """Colour the pixels of the car with number ``own``.

    looks: the table with one row of :func:`look_table`. place: x, y, cosine and sine of the heading; the mesh is in the
    car's own axes. In a block of 2x2 pixels inside the car, only the two on a diagonal are shaded; the others get their
    mean.
    """
    owner, picture, look = canvas.owner, canvas.picture, looks[0]
    for i in range(window[0], window[2], 2):
        for j in range(window[1], window[3], 2):
            inside = (
                owner[i, j] == own and owner[i, j + 1] == own and owner[i + 1, j] == own and owner[i + 1, j + 1] == own
            )
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


@inlined
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
    surface = car_surface(look, mesh.materials[k], x, y, z, a, n)
    lift = 1.5 / moving.scale  # more than a texel off the surface; otherwise the surface would shade itself
    off_x, off_y = x + lift * n[0], y + lift * n[1]
    at = (px + off_x * pc - off_y * ps, py + off_x * ps + off_y * pc, z + lift * n[2])
    lit = sunlit(moving, at[0], at[1], at[2], 0.06) * sunlit(static, at[0], at[1], at[2], 0.15)
    length = math.sqrt(dx * dx + dy * dy + dz * dz)
    return finish(light, look, surface, (x, y, z), n, (dx / length, dy / length, dz / length), lit, pc, ps)


@inlined
def finish(
    light: Light, look: CarLook, surface: tuple[int, float, float, float, float], p: Rgb, n: Rgb, d: Rgb,
    lit: float, pc: float, ps: float,
) -> Rgb:  # fmt: skip
    """Return the radiance of a point on a car; p, n and d are in the car's axes.

    (pc, ps), cosine and sine of the heading, turn directions to the world for the sky.
    """
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
    r0, g0, b0 = (
        r * (ar * open_sky + facing * light.sun_red),
        g * (ag * open_sky + facing * light.sun_green),
        b * (ab * open_sky + facing * light.sun_blue),
    )
    if glow > 0.0:
        if glow < 0.3:  # such a weak glow is daylight in the lens, not light of the lamp
            glow *= min(light.horizon_green, 1.0)
        r0, g0, b0 = r0 + r * glow, g0 + g * glow, b0 + b * glow
    base = (r0, g0, b0)
    if kind == MATTE:
        return base
    if kind == GLASS:
        base = cabin_view(light, look, p, d, base) if look.faces > 0.5 else dim_cabin(light, look, p, d, base)
    mx, my, mz = d[0] - 2.0 * dot * nx, d[1] - 2.0 * dot * ny, d[2] - 2.0 * dot * nz
    mirrored = surroundings(light, mx * pc - my * ps, mx * ps + my * pc, mz)
    glint = max(mx * sx + my * sy + mz * light.sun_z, 0.0)
    dull = open_sky if p[2] < 0.7 else 1.0
    return coat(light, look.metallic, kind, (r, g, b), base, mirrored, glint, lit, -dot, dull)


@inlined
def coat(
    light: Light, metallic: float, kind: int, tint: Rgb, base: Rgb, mirrored: Rgb,
    glint: float, lit: float, cosine: float, dull: float,
) -> Rgb:  # fmt: skip
    """Return ``base`` under a clear coat, or a metal. glint: cosine between the mirrored ray and the sun."""
    sharp = 12.0 * glint**250 * lit if glint > 0.97 else 0.0
    sr, sg, sb = light.sun_red, light.sun_green, light.sun_blue
    er, eg, eb = mirrored
    if kind == CHROME:
        sharp += 0.5 * glint**12 * lit
        return (
            0.35 * base[0] + tint[0] * (er + sharp * sr),
            0.35 * base[1] + tint[1] * (eg + sharp * sg),
            0.35 * base[2] + tint[2] * (eb + sharp * sb),
        )
    flakes = metallic if kind == PAINT else 0.0
    sheen, sparkle = 0.12 * flakes, flakes * lit * (0.35 * glint**10 + 0.10)
    least = 0.05 if kind == PAINT else 0.07
    fresnel = least + (1.0 - least) * (1.0 - min(cosine, 1.0)) ** 5
    keep, shine, spot = 1.0 - fresnel, fresnel * dull, 0.12 * sharp
    return (
        keep * (base[0] + tint[0] * (sheen * er + sparkle * sr)) + shine * er + spot * sr,
        keep * (base[1] + tint[1] * (sheen * eg + sparkle * sg)) + shine * eg + spot * sg,
        keep * (base[2] + tint[2] * (sheen * eb + sparkle * sb)) + shine * eb + spot * sb,
    )


@compiled
def dim_cabin(light: Light, look: CarLook, p: Rgb, d: Rgb, behind: Rgb) -> Rgb:
    """Return the view through a window: a dim cabin, and daylight through the windows on the other side."""
    clear = (1.0 - look.tint) ** 1.5
    dim = 0.05 * clear + 0.008
    r, g, b = (
        behind[0] * 0.3 + dim * light.horizon_red,
        behind[1] * 0.3 + dim * light.horizon_green,
        behind[2] * 0.3 + dim * light.horizon_blue,
    )
    if abs(d[1]) > 0.15:
        side = 1.0 if d[1] > 0.0 else -1.0
        t = (side * (look.half_width - 0.16) - p[1]) / d[1]
        x, z = p[0] + t * d[0], p[2] + t * d[2]
        low, high = look.deck_z + 0.02, look.height - 0.14
        is_open = low < z < high and look.roof_rear_x + 0.05 < x < look.roof_front_x + 0.35
        is_open = is_open and abs(x - look.pillar_b) > 0.09 and abs(x - look.pillar_b + 0.22) > 0.13
        if t > 0.3 and is_open and x > look.glass_rear:
            r, g, b = (
                r + 0.26 * clear * light.horizon_red,
                g + 0.26 * clear * light.horizon_green,
                b + 0.26 * clear * light.horizon_blue,
            )
    return (r, g, b)
