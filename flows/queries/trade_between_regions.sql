-- How much did each region buy from each other region in 1996, with the totals of both sides?
select
    sellers.r_name as sold_by,
    buyers.r_name as bought_by,
    count(*) as lines,
    sum(l_extendedprice * (1 - l_discount)) as revenue
from lineitem
join orders on o_orderkey = l_orderkey
join customer on c_custkey = o_custkey
join nation as buying on buying.n_nationkey = c_nationkey
join region as buyers on buyers.r_regionkey = buying.n_regionkey
join supplier on s_suppkey = l_suppkey
join nation as selling on selling.n_nationkey = s_nationkey
join region as sellers on sellers.r_regionkey = selling.n_regionkey
where o_orderdate >= date '1996-01-01' and o_orderdate < date '1997-01-01'
group by cube (sellers.r_name, buyers.r_name)
order by sold_by, bought_by;
