"""Lighting of textured meshes: paint, rubber, lamps, decals, and glass that is drawn over the things behind it."""

from __future__ import annotations

import math
from typing import NamedTuple

from carkp.rendered.glb import Surface
from carkp.synthetic._jit import compiled, inlined
from carkp.synthetic.camera import Lens
from carkp.synthetic.lighting import Light, Rgb, haze_share, sky_light, surroundings
from carkp.synthetic.mesh import Floats, Ints
from carkp.synthetic.render import ShadowMap, sunlit
from carkp.synthetic.shading import Canvas, Window, ray

RED, GREEN, BLUE, ALPHA, METALLIC, ROUGHNESS, KIND, TEXTURE, GLOW, LUMINANCE = range(10)
PAINT, GLASS, DECAL, LAMP_GLASS = 1, 2, 3, 7
"""Values of ``glb.Column`` and ``glb.Kind`` as plain numbers, which kernels need."""


class Place(NamedTuple):
    """The place of a car: position, cosine and sine of its heading."""

    x: float
    y: float
    cosine: float
    sine: float


@inlined
def barycentric(surface: Surface, k: int, x: float, y: float, z: float) -> Rgb:
    """Return the weights of the corners of triangle ``k`` at a point on it."""
    a, b, c = surface.faces[k, 0], surface.faces[k, 1], surface.faces[k, 2]
    points = surface.vertices
    ax, ay, az = points[a, 0], points[a, 1], points[a, 2]
    bx, by, bz = points[b, 0] - ax, points[b, 1] - ay, points[b, 2] - az
    cx, cy, cz = points[c, 0] - ax, points[c, 1] - ay, points[c, 2] - az
    px, py, pz = x - ax, y - ay, z - az
    bb, bc, cc = bx * bx + by * by + bz * bz, bx * cx + by * cy + bz * cz, cx * cx + cy * cy + cz * cz
    pb, pc = px * bx + py * by + pz * bz, px * cx + py * cy + pz * cz
    scale = 1.0 / max(bb * cc - bc * bc, 1e-16)
    v = min(max((cc * pb - bc * pc) * scale, 0.0), 1.0)
    w = min(max((bb * pc - bc * pb) * scale, 0.0), 1.0)
    return (max(1.0 - v - w, 0.0), v, w)


@inlined
def mixed(table: Floats, faces: Ints, k: int, bary: Rgb, column: int) -> float:
    value: float = (
        bary[0] * table[faces[k, 0], column]
        + bary[1] * table[faces[k, 1], column]
        + bary[2] * table[faces[k, 2], column]
    )
    return value


@inlined
def texel(surface: Surface, texture: int, level: int, u: float, v: float) -> tuple[float, float, float, float]:
    """Return linear colour and alpha of a texture's level at (u, v), interpolated between four texels; it repeats."""
    first, height = surface.levels[texture, level, 0], surface.levels[texture, level, 1]
    width = surface.levels[texture, level, 2]
    x, y = (u - math.floor(u)) * width - 0.5, (v - math.floor(v)) * height - 0.5
    j, i = math.floor(x), math.floor(y)
    fx, fy = x - j, y - i
    r = g = b = alpha = 0.0
    for di in range(2):
        for dj in range(2):
            row, column = (int(i) + di) % height, (int(j) + dj) % width
            share = (fy if di else 1.0 - fy) * (fx if dj else 1.0 - fx)
            at = first + row * width + column
            r += share * surface.texels[at, 0]
            g += share * surface.texels[at, 1]
            b += share * surface.texels[at, 2]
            alpha += share * surface.texels[at, 3]
    r, g, b = r / 255.0, g / 255.0, b / 255.0
    return (r * r * (0.8 + 0.2 * r), g * g * (0.8 + 0.2 * g), b * b * (0.8 + 0.2 * b), alpha / 255.0)


@inlined
def level_of(surface: Surface, texture: int, k: int, pixel: float) -> int:
    """Return the level whose texels are about as large as a pixel of ``pixel`` metres on triangle ``k``."""
    a, b, c = surface.faces[k, 0], surface.faces[k, 1], surface.faces[k, 2]
    p, t = surface.vertices, surface.uvs
    bx, by, bz = p[b, 0] - p[a, 0], p[b, 1] - p[a, 1], p[b, 2] - p[a, 2]
    cx, cy, cz = p[c, 0] - p[a, 0], p[c, 1] - p[a, 1], p[c, 2] - p[a, 2]
    nx, ny, nz = by * cz - bz * cy, bz * cx - bx * cz, bx * cy - by * cx
    area = math.sqrt(nx * nx + ny * ny + nz * nz) + 1e-12
    flat = abs((t[b, 0] - t[a, 0]) * (t[c, 1] - t[a, 1]) - (t[c, 0] - t[a, 0]) * (t[b, 1] - t[a, 1]))
    texels = flat * surface.levels[texture, 0, 1] * surface.levels[texture, 0, 2]
    wide = pixel * math.sqrt(texels / area)
    if wide <= 1.0:
        return 0
    last: int = surface.levels.shape[1] - 1
    return min(int(math.log2(wide) + 0.5), last)


@inlined
def reflectance(surface: Surface, k: int, bary: Rgb, pixel: float) -> tuple[float, float, float, float]:
    """Return the linear colour and alpha of a point of triangle ``k``.

    Opaque materials ignore the alpha of their texture: there, files often store something else.
    """
    row = surface.face_materials[k]
    m = surface.materials
    r, g, b, alpha = m[row, RED], m[row, GREEN], m[row, BLUE], m[row, ALPHA]
    texture = int(m[row, TEXTURE])
    if texture < 0:
        return (r, g, b, alpha)
    u = mixed(surface.uvs, surface.faces, k, bary, 0)
    v = 1.0 - mixed(surface.uvs, surface.faces, k, bary, 1)
    tr, tg, tb, ta = texel(surface, texture, level_of(surface, texture, k, pixel), u, v)
    kind = int(m[row, KIND])
    if kind != GLASS and kind != DECAL and kind != LAMP_GLASS:
        ta = 1.0
    mean = m[row, LUMINANCE]
    if mean > 0.0:  # the paint's colour with the texture's light and shade
        tone = min((0.3 * tr + 0.6 * tg + 0.1 * tb) / mean, 1.8)
        return (r * tone, g * tone, b * tone, alpha * ta)
    return (r * tr, g * tg, b * tb, alpha * ta)


@compiled
def shade_surface(
    window: Window, lens: Lens, light: Light, place: Place, static: ShadowMap, moving: ShadowMap,
    surface: Surface, nearness: Floats, triangle: Ints, canvas: Canvas, own: int, over: bool,
) -> int:  # fmt: skip
    """Colour the pixels of a car. ``nearness`` and ``triangle``: the car's own drawing in ``window``.

    ``over`` False: colour the opaque triangles that are visible according to the canvas. True: draw the see-through
    triangles over the canvas, which keeps its depth.

    Returns:
        The number of coloured pixels.
    """
    count = 0
    picture = canvas.picture
    for i in range(window[0], window[2]):
        for j in range(window[1], window[3]):
            q = nearness[i - window[0], j - window[1]]
            if over:
                if q <= canvas.nearness[i, j]:
                    continue
            elif canvas.owner[i, j] != own:
                continue
            k = triangle[i - window[0], j - window[1]]
            colour, alpha = light_of(lens, light, place, static, moving, surface, k, q, j + 0.5, i + 0.5)
            share = haze_share(light, 1.0 / q)
            r = colour[0] + (alpha * light.horizon_red - colour[0]) * share
            g = colour[1] + (alpha * light.horizon_green - colour[1]) * share
            b = colour[2] + (alpha * light.horizon_blue - colour[2]) * share
            keep = 1.0 - alpha
            picture[i, j, 0] = r + keep * picture[i, j, 0]
            picture[i, j, 1] = g + keep * picture[i, j, 1]
            picture[i, j, 2] = b + keep * picture[i, j, 2]
            count += 1
    return count


@inlined
def light_of(
    lens: Lens, light: Light, place: Place, static: ShadowMap, moving: ShadowMap, surface: Surface, k: int, q: float,
    column: float, row: float,
) -> tuple[Rgb, float]:  # fmt: skip
    """Return the radiance of a point, multiplied by its alpha where that applies, and the alpha."""
    pc, ps = place.cosine, place.sine
    ox, oy = lens.x - place.x, lens.y - place.y
    wx, wy, dz = ray(lens, column, row)
    dx, dy = wx * pc + wy * ps, wy * pc - wx * ps
    p = (ox * pc + oy * ps + dx / q, oy * pc - ox * ps + dy / q, lens.z + dz / q)
    bary = barycentric(surface, k, p[0], p[1], p[2])
    length = math.sqrt(dx * dx + dy * dy + dz * dz)
    d = (dx / length, dy / length, dz / length)
    n, dot, sky = facing_normal(surface, k, bary, d)
    pixel = 1.0 / (q * lens.focal) / max(-dot, 0.2)
    r, g, b, alpha = reflectance(surface, k, bary, pixel)
    lit = sun_at(place, static, moving, p, n)
    return radiance(light, place, surface.materials, surface.face_materials[k], (r, g, b), alpha, n, d, dot, sky, lit)


@inlined
def facing_normal(surface: Surface, k: int, bary: Rgb, d: Rgb) -> tuple[Rgb, float, float]:
    """Return the normal turned to the viewer, its cosine to the ray, and the visible share of the sky."""
    nx = mixed(surface.normals, surface.faces, k, bary, 0)
    ny = mixed(surface.normals, surface.faces, k, bary, 1)
    nz = mixed(surface.normals, surface.faces, k, bary, 2)
    size = math.sqrt(nx * nx + ny * ny + nz * nz) + 1e-9
    nx, ny, nz = nx / size, ny / size, nz / size
    faces = surface.faces
    sky = (
        bary[0] * surface.open_sky[faces[k, 0]]
        + bary[1] * surface.open_sky[faces[k, 1]]
        + bary[2] * surface.open_sky[faces[k, 2]]
    )
    dot = nx * d[0] + ny * d[1] + nz * d[2]
    if dot > 0.25:  # seen from inside
        sky *= 0.25
    if dot > 0.0:
        return (-nx, -ny, -nz), -dot, sky
    return (nx, ny, nz), dot, sky


@inlined
def sun_at(place: Place, static: ShadowMap, moving: ShadowMap, p: Rgb, n: Rgb) -> float:
    """Return the share of the sun that reaches a point of the car."""
    lift = 1.5 / moving.scale  # more than a texel off the surface; otherwise the surface would shade itself
    x, y, z = p[0] + lift * n[0], p[1] + lift * n[1], p[2] + lift * n[2]
    at_x = place.x + x * place.cosine - y * place.sine
    at_y = place.y + x * place.sine + y * place.cosine
    return sunlit(moving, at_x, at_y, z, 0.05) * sunlit(static, at_x, at_y, z, 0.15)


@inlined
def radiance(
    light: Light, place: Place, m: Floats, row: int, tint: Rgb, alpha: float, n: Rgb, d: Rgb, dot: float, sky: float,
    lit: float,
) -> tuple[Rgb, float]:  # fmt: skip
    """Return the light, times alpha, of a surface with reflectance ``tint`` under a clear coat; and the alpha."""
    kind, metallic, roughness, glow = int(m[row, KIND]), m[row, METALLIC], m[row, ROUGHNESS], m[row, GLOW]
    pc, ps = place.cosine, place.sine
    sx, sy = light.sun_x * pc + light.sun_y * ps, light.sun_y * pc - light.sun_x * ps
    sun = max(n[0] * sx + n[1] * sy + n[2] * light.sun_z, 0.0) * lit
    ar, ag, ab = sky_light(light, n[2])
    r, g, b = tint
    sr, sg, sb = light.sun_red, light.sun_green, light.sun_blue
    base = (r * (ar * sky + sun * sr), g * (ag * sky + sun * sg), b * (ab * sky + sun * sb))
    mx, my, mz = d[0] - 2.0 * dot * n[0], d[1] - 2.0 * dot * n[1], d[2] - 2.0 * dot * n[2]
    mirrored = surroundings(light, mx * pc - my * ps, mx * ps + my * pc, mz)
    open_sky = min(0.25 + 0.75 * sky, 1.0)
    glint = max(mx * sx + my * sy + mz * light.sun_z, 0.0)
    shine = 0.9 if kind == PAINT else (1.0 if kind == GLASS else (1.0 - roughness) ** 2)
    least = 0.04 if kind != PAINT and kind != GLASS else 0.05
    mirror = (least + (1.0 - least) * (1.0 + dot) ** 5) * shine
    spot = lit * (0.6 + 8.0 * shine) * glint ** (10.0 + 400.0 * shine * shine) if glint > 0.7 else 0.0
    metal = metallic * (0.9 if kind != PAINT else 0.35)
    flake = metallic * lit * 0.35 * glint**10 if kind == PAINT and glint > 0.5 else 0.0
    dull, plain = alpha * (1.0 - metal) * (1.0 - mirror), alpha * metal
    edge, dot_light = mirror * open_sky, 0.12 * spot
    return (
        (
            dull * (base[0] + r * flake * sr) + plain * r * (mirrored[0] * open_sky + spot * sr)
            + alpha * glow * r + edge * mirrored[0] + dot_light * sr,
            dull * (base[1] + g * flake * sg) + plain * g * (mirrored[1] * open_sky + spot * sg)
            + alpha * glow * g + edge * mirrored[1] + dot_light * sg,
            dull * (base[2] + b * flake * sb) + plain * b * (mirrored[2] * open_sky + spot * sb)
            + alpha * glow * b + edge * mirrored[2] + dot_light * sb,
        ),
        min(alpha + mirror, 1.0),
    )  # fmt: skip
